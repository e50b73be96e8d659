#include "models/json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

// Checks a text while it is parsed, before anything is built: nlohmann's own DOM parser would keep
// the last of two equal keys and recurse without a limit in the destructor of deep values.
class StrictChecker : public nlohmann::json_sax<Json> {
 public:
  const std::string& error() const { return error_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }

  bool start_object(size_t) override {
    keys_.emplace_back();
    return Enter();
  }
  bool end_object() override {
    keys_.pop_back();
    --depth_;
    return true;
  }
  bool key(string_t& name) override {
    if (keys_.back().insert(name).second) return true;
    error_ = absl::StrCat("duplicate key ", Quoted(name));
    return false;
  }
  bool start_array(size_t) override { return Enter(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::detail::exception& e) override {
    // The library's text begins with its own error code and repeats parts of the input.
    const bool range = std::strstr(e.what(), "out_of_range") != nullptr;
    error_ =
        range ? absl::StrCat("number out of range: ", Quoted(token))
              : absl::StrCat("not valid JSON at byte ", position, ", near ",
                             Quoted(token.size() > 20 ? token.substr(token.size() - 20) : token));
    return false;
  }

 private:
  bool Enter() {
    if (++depth_ <= kMaxJsonDepth) return true;
    error_ = absl::StrCat("nested more than ", kMaxJsonDepth, " levels deep");
    return false;
  }

  std::vector<std::unordered_set<std::string>> keys_;  // Of the open objects.
  int depth_ = 0;
  std::string error_;
};

}  // namespace

absl::StatusOr<Json> ParseJson(const char* text, size_t bytes, const std::string& where) {
  StrictChecker checker;
  if (!Json::sax_parse(text, text + bytes, &checker)) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", checker.error()));
  }
  Json json = Json::parse(text, text + bytes, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": not valid JSON"));
  }
  return json;
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes) {
  // O_NONBLOCK: a FIFO must not make us wait.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const std::string message = absl::StrCat(path, ": ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(message) : absl::InvalidArgumentError(message);
  }
  struct stat info;
  std::string error;
  std::string text;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    error = "not a regular file";
  } else if (static_cast<size_t>(info.st_size) > max_bytes) {
    error = absl::StrCat("has ", info.st_size, " bytes, more than the ", max_bytes, " allowed");
  } else {
    text.resize(info.st_size);
    size_t done = 0;
    while (done < text.size()) {
      const ssize_t n = read(fd, &text[done], text.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        error = n < 0 ? std::strerror(errno) : "shrank while it was read";
        break;
      }
      done += n;
    }
  }
  close(fd);
  if (!error.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": ", error));
  return text;
}

std::string Quoted(const std::string& name) {
  constexpr size_t kLongest = 120;
  const bool cut = name.size() > kLongest;
  const std::string shown = cut ? name.substr(0, kLongest) : name;
  return absl::StrCat("\"", absl::CHexEscape(shown), cut ? "...\"" : "\"");
}

}  // namespace packrat
