#include "models/files/json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace packrat {

bool StrictJsonSax::Fail(const std::string& why) {
  error_ = why;
  return false;
}

bool StrictJsonSax::start_object(size_t) {
  keys_.emplace_back();
  return Enter();
}

bool StrictJsonSax::end_object() {
  keys_.pop_back();
  --depth_;
  return true;
}

// The library itself would silently keep the last of two equal keys.
bool StrictJsonSax::key(string_t& name) {
  if (keys_.back().insert(name).second) return true;
  return Fail(absl::StrCat("duplicate key ", Quoted(name)));
}

bool StrictJsonSax::start_array(size_t) { return Enter(); }

bool StrictJsonSax::Enter() {
  if (++depth_ <= kMaxJsonDepth) return true;
  return Fail(absl::StrCat("nested more than ", kMaxJsonDepth, " levels deep"));
}

bool StrictJsonSax::end_array() {
  --depth_;
  return true;
}

bool StrictJsonSax::parse_error(size_t position, const std::string& token,
                                const nlohmann::detail::exception& e) {
  // The library's own text begins with its error code and repeats much of the input.
  if (e.id == 406) return Fail(absl::StrCat("number out of range: ", Quoted(token)));
  const std::string near = token.size() > 20 ? token.substr(token.size() - 20) : token;
  return Fail(absl::StrCat("not valid JSON at byte ", position, ", near ", Quoted(near)));
}

absl::StatusOr<Json> ParseJson(const char* text, size_t bytes, const std::string& where) {
  StrictJsonSax checker;
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
