#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "models/text/tool_calls/written_call.h"

namespace packrat {
namespace {

using OrderedJson = nlohmann::ordered_json;

// Each function reads what begins here, and is false if that is something else.
class Literals {
 public:
  explicit Literals(absl::string_view text) : text_(text) {}

  bool Call(WrittenCall* call) {
    if (!Name(&call->name) || !Skip('(')) return false;
    while (!Skip(')')) {
      std::string argument;
      OrderedJson value;
      if (!Name(&argument) || !Skip('=') || !Value(&value, 0)) return false;
      call->arguments[argument] = std::move(value);
      if (!Skip(',') && !Peek(')')) return false;
    }
    return Done();
  }

 private:
  static constexpr int kMaxDepth = 32;

  void SkipSpace() {
    while (at_ < text_.size() && absl::ascii_isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }
  bool Peek(char c) {
    SkipSpace();
    return at_ < text_.size() && text_[at_] == c;
  }
  bool Skip(char c) {
    if (!Peek(c)) return false;
    ++at_;
    return true;
  }
  bool Done() {
    SkipSpace();
    return at_ == text_.size();
  }
  bool Name(std::string* name) {
    SkipSpace();
    const size_t begin = at_;
    while (at_ < text_.size() && IsNameByte(text_[at_])) ++at_;
    *name = std::string(text_.substr(begin, at_ - begin));
    return at_ > begin;
  }
  static bool IsNameByte(char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.';
  }

  bool Value(OrderedJson* value, int depth) {
    if (depth > kMaxDepth) return false;
    if (Peek('"') || Peek('\'')) return String(value);
    if (Skip('[')) return List(value, ']', depth);
    if (Skip('(')) return List(value, ')', depth);
    if (Skip('{')) return Dict(value, depth);
    return Word(value);
  }

  bool List(OrderedJson* value, char close, int depth) {
    *value = OrderedJson::array();
    while (!Skip(close)) {
      OrderedJson item;
      if (!Value(&item, depth + 1)) return false;
      value->push_back(std::move(item));
      if (!Skip(',') && !Peek(close)) return false;
    }
    return true;
  }

  bool Dict(OrderedJson* value, int depth) {
    *value = OrderedJson::object();
    while (!Skip('}')) {
      OrderedJson key, item;
      if (!Value(&key, depth + 1) || !key.is_string()) return false;
      if (!Skip(':') || !Value(&item, depth + 1)) return false;
      (*value)[key.get<std::string>()] = std::move(item);
      if (!Skip(',') && !Peek('}')) return false;
    }
    return true;
  }

  // As a string of JSON, which differs in what may be escaped.
  bool String(OrderedJson* value) {
    const char quote = text_[at_++];
    std::string json = "\"";
    for (; at_ < text_.size() && text_[at_] != quote; ++at_) {
      const char c = text_[at_];
      if (c == '\\' && at_ + 1 < text_.size()) {
        const char next = text_[++at_];
        if (next == '\'') {
          json += next;
        } else if (next == 'x') {
          json += "\\u00";
        } else if (absl::string_view("\"\\/bfnrtu").find(next) != absl::string_view::npos) {
          absl::StrAppend(&json, "\\", absl::string_view(&next, 1));
        } else {  // Python leaves both.
          absl::StrAppend(&json, "\\\\", absl::string_view(&next, 1));
        }
      } else if (c == '"') {
        json += "\\\"";
      } else if (static_cast<unsigned char>(c) < 0x20) {
        absl::StrAppend(&json, "\\u", absl::Hex(c, absl::kZeroPad4));
      } else {
        json += c;
      }
    }
    if (at_ == text_.size()) return false;
    ++at_;
    *value = OrderedJson::parse(json + "\"", nullptr, /*allow_exceptions=*/false);
    return value->is_string();
  }

  bool Word(OrderedJson* value) {
    SkipSpace();
    const size_t begin = at_;
    while (at_ < text_.size() && (IsNameByte(text_[at_]) || text_[at_] == '+')) ++at_;
    const absl::string_view word = text_.substr(begin, at_ - begin);
    if (word == "True" || word == "False") {
      *value = word == "True";
    } else if (word == "None") {
      *value = nullptr;
    } else {
      *value = OrderedJson::parse(word, nullptr, /*allow_exceptions=*/false);
    }
    return !value->is_discarded();
  }

  const absl::string_view text_;
  size_t at_ = 0;
};

}  // namespace

std::optional<WrittenCall> ReadPythonCall(absl::string_view text) {
  WrittenCall call;
  if (!Literals(text).Call(&call)) return std::nullopt;
  return call;
}

bool PythonCallEnd::Feed(char c) {
  if (quote_ != '\0') {
    if (escaped_) {
      escaped_ = false;
    } else if (c == '\\') {
      escaped_ = true;
    } else if (c == quote_) {
      quote_ = '\0';
    }
    return false;
  }
  if (c == '"' || c == '\'') quote_ = c;
  if (c == '(' || c == '[' || c == '{') ++depth_;
  if (c == ')' || c == ']' || c == '}') return --depth_ == 0;
  return false;
}

}  // namespace packrat
