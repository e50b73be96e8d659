#include "models/files/json.h"

#include <algorithm>
#include <cmath>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/charconv.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

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
  if (--depth_ == 0) field_.clear();  // What comes behind it is in no field.
  return true;
}

// The library would silently keep the last of two equal keys.
bool StrictJsonSax::key(string_t& name) {
  if (depth_ == 1) field_ = name;
  if (keys_.back().insert(name).second) return true;
  return Fail(absl::StrCat("duplicate key ", Quoted(name)));
}

bool StrictJsonSax::start_array(size_t) { return Enter(); }

bool StrictJsonSax::Enter() {
  if (++depth_ <= max_depth_) return true;
  return Fail(absl::StrCat("nested more than ", max_depth_, " levels deep"));
}

bool StrictJsonSax::end_array() {
  --depth_;
  return true;
}

bool StrictJsonSax::parse_error(size_t position, const std::string& token,
                                const nlohmann::detail::exception& e) {
  // The library's message begins with an error code and repeats much of the input.
  if (e.id == 406) return Fail(absl::StrCat("number out of range: ", Quoted(token)));
  const std::string near = token.size() > 20 ? token.substr(token.size() - 20) : token;
  return Fail(absl::StrCat("not valid JSON at byte ", position, ", near ", Quoted(near)));
}

namespace {

bool InNumber(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '+' || c == '.';
}

// Finds Infinity, -Infinity and NaN, as Python writes them, and numbers too large for a double.
bool IsNotFinite(absl::string_view word) {
  if (word == "Infinity" || word == "-Infinity" || word == "NaN") return true;
  const absl::string_view digits = absl::StripPrefix(word, "-");
  if (digits.size() > 1 && digits[0] == '0' && absl::ascii_isdigit(digits[1])) return false;
  double value = 0;
  const auto read = absl::from_chars(word.data(), word.data() + word.size(), value);
  return read.ec == std::errc::result_out_of_range && std::abs(value) > 1 &&
         read.ptr == word.data() + word.size();
}

// The text with such words in quotes, since JSON cannot hold them otherwise. A field that nobody
// reads may then hold one, and a field that must be a number refuses it by name. `quotes`: their
// positions. The result is empty if there is no such word.
std::string QuoteNotFinite(absl::string_view text, std::vector<size_t>* quotes) {
  std::string quoted;
  size_t copied = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (text[at] == '"') {
      for (++at; at < text.size() && text[at] != '"'; ++at) at += text[at] == '\\' ? 1 : 0;
      ++at;
    } else if (InNumber(text[at])) {
      while (at < text.size() && InNumber(text[at])) ++at;
      if (!IsNotFinite(text.substr(begin, at - begin))) continue;
      const size_t next = text.find_first_not_of(" \t\r\n", at);
      if (next != text.npos && text[next] == ':') continue;  // It stands where a name must be.
      quoted.append(text.data() + copied, begin - copied);
      quotes->push_back(quoted.size());
      absl::StrAppend(&quoted, "\"", text.substr(begin, at - begin), "\"");
      quotes->push_back(quoted.size() - 1);
      copied = at;
    } else {
      ++at;
    }
  }
  if (!quotes->empty()) quoted.append(text.data() + copied, text.size() - copied);
  return quoted;
}

// Reports positions as they are in the file.
class QuotedJsonSax : public StrictJsonSax {
 public:
  explicit QuotedJsonSax(const std::vector<size_t>& quotes) : quotes_(quotes) {}
  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::detail::exception& e) override {
    const auto after = std::lower_bound(quotes_.begin(), quotes_.end(), position);
    return StrictJsonSax::parse_error(position - (after - quotes_.begin()), token, e);
  }

 private:
  const std::vector<size_t>& quotes_;
};

}  // namespace

absl::Status CheckNoNul(const char* text, size_t bytes, const std::string& where) {
  const char* const end = text + bytes;
  const char* const nul = std::find(text, end, '\0');
  if (nul == end) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": not valid JSON: a NUL at byte ", nul - text + 1));
}

absl::StatusOr<Json> ParseJson(const char* text, size_t bytes, const std::string& where) {
  const absl::Status no_nul = CheckNoNul(text, bytes, where);
  if (!no_nul.ok()) return no_nul;
  std::vector<size_t> quotes;
  const std::string quoted = QuoteNotFinite(absl::string_view(text, bytes), &quotes);
  if (!quotes.empty()) {
    text = quoted.data();
    bytes = quoted.size();
  }
  QuotedJsonSax checker(quotes);
  if (!Json::sax_parse(text, text + bytes, &checker)) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", checker.error()));
  }
  Json json = Json::parse(text, text + bytes, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": not valid JSON"));
  }
  return json;
}

std::string Quoted(const std::string& name) {
  constexpr size_t kLongest = 120;
  const bool cut = name.size() > kLongest;
  const std::string shown = cut ? name.substr(0, kLongest) : name;
  return absl::StrCat("\"", absl::CHexEscape(shown), cut ? "...\"" : "\"");
}

}  // namespace packrat
