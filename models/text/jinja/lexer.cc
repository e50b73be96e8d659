#include "models/text/jinja/lexer.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "models/text/jinja/python_text.h"

namespace packrat::jinja {
namespace {

// Every line break is \n, and one at the end goes.
std::string NormalizeLines(const std::string& source) {
  std::string text;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
    } else {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (absl::EndsWith(text, "\n")) text.pop_back();
  return text;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsBlank(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }
bool IsNameStart(char c) { return absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == '_'; }
bool IsNamePart(char c) { return IsNameStart(c) || IsDigit(c); }

class Lexer {
 public:
  explicit Lexer(const std::string& source) : source_(NormalizeLines(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (status_.ok() && at_ < source_.size()) LexText();
    if (!status_.ok()) return status_;
    Add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void Add(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), line_});
  }

  void Fail(absl::string_view why) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat("line ", line_, ": ", why));
  }

  bool Looks(size_t at, absl::string_view what) const {
    return absl::string_view(source_).substr(at, what.size()) == what;
  }
  size_t SkipBlanks(size_t at) const {
    while (at < source_.size() && IsBlank(source_[at])) ++at;
    return at;
  }
  // Moves on, and counts lines.
  void MoveTo(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + to, '\n'));
    at_ = to;
    at_line_start_ = to > 0 && source_[to - 1] == '\n';
  }

  // Up to the next tag, and the tag.
  void LexText() {
    size_t tag = at_;
    while ((tag = source_.find('{', tag)) != source_.npos && !Looks(tag, "{{") &&
           !Looks(tag, "{%") && !Looks(tag, "{#")) {
      ++tag;
    }
    if (tag == source_.npos) {
      Add(Token::Kind::kText, source_.substr(at_));
      at_ = source_.size();
      return;
    }
    const char kind = source_[tag + 1];
    size_t inside = tag + 2;
    char sign = 0;
    if (inside < source_.size() && (source_[inside] == '-' || source_[inside] == '+')) {
      sign = source_[inside++];
    }
    AddTextBefore(tag, sign, kind != '{');
    MoveTo(inside);
    if (kind == '#') {
      const size_t end = source_.find("#}", at_);
      if (end == source_.npos) return Fail("a comment does not end");
      MoveTo(TagEnd(end > at_ && IsSign(source_[end - 1]) ? end - 1 : end, true));
      return;
    }
    size_t raw = SkipBlanks(at_);
    if (kind == '%' && Looks(raw, "raw")) {
      raw = SkipBlanks(raw + 3);
      if (Looks(raw, "%}")) return LexRaw(raw + 2);
      if (Looks(raw, "-%}")) return LexRaw(SkipBlanks(raw + 3));
    }
    Add(kind == '%' ? Token::Kind::kBlockBegin : Token::Kind::kVariableBegin, "");
    LexTag(kind == '%' ? '%' : '}');
  }

  static bool IsSign(char c) { return c == '-' || c == '+'; }

  // Text before a tag, without the white space that the tag takes.
  void AddTextBefore(size_t tag, char sign, bool may_strip_line) {
    std::string text = source_.substr(at_, tag - at_);
    if (sign == '-') {
      text = Strip({text, MarkedText::kOwn}, nullptr, false, true).text();
    } else if (sign != '+' && may_strip_line) {
      const size_t line = text.rfind('\n') + 1;  // 0 if there is none.
      if ((line > 0 || at_line_start_) &&
          Strip({text.substr(line), MarkedText::kOwn}, nullptr, true, false).empty()) {
        text.resize(line);
      }
    }
    if (!text.empty()) Add(Token::Kind::kText, text);
  }

  // Behind a tag whose end, with its sign, is at `end`.
  size_t TagEnd(size_t end, bool takes_line_break) const {
    const bool strips = source_[end] == '-';
    const bool keeps = source_[end] == '+';
    end += strips || keeps ? 3 : 2;
    if (strips) {
      while (end < source_.size()) {  // All of Unicode's.
        size_t next = end;
        if (!IsSpace(NextCharacter(source_, &next))) break;
        end = next;
      }
    } else if (!keeps && takes_line_break && Looks(end, "\n")) {
      ++end;
    }
    return end;
  }

  // {% raw %} up to its {% endraw %}. `begin`: behind the first.
  void LexRaw(size_t begin) {
    MoveTo(begin);
    for (size_t tag = begin; (tag = source_.find("{%", tag)) != source_.npos; ++tag) {
      size_t at = tag + 2;
      const char sign = at < source_.size() && IsSign(source_[at]) ? source_[at++] : 0;
      at = SkipBlanks(at);
      if (!Looks(at, "endraw")) continue;
      at = SkipBlanks(at + 6);
      if (!Looks(at, "%}") && !Looks(at, "-%}") && !Looks(at, "+%}")) continue;
      AddTextBefore(tag, sign, true);
      return MoveTo(TagEnd(at, true));
    }
    Fail("raw does not end");
  }

  // The tokens of a tag, up to its end: "%}" or "}}".
  void LexTag(char end) {
    std::string open;  // Brackets.
    const std::string closing{end, '}'};
    while (true) {
      MoveTo(SkipBlanks(at_));
      if (at_ == source_.size()) return Fail("a tag does not end");
      const bool with_sign =
          (source_[at_] == '-' || (source_[at_] == '+' && end == '%')) && Looks(at_ + 1, closing);
      if (open.empty() && (with_sign || Looks(at_, closing))) {
        Add(end == '%' ? Token::Kind::kBlockEnd : Token::Kind::kVariableEnd, "");
        return MoveTo(TagEnd(at_, end == '%'));
      }
      const char c = source_[at_];
      if (const size_t to = IsDigit(c) ? at_ : NameEnd(at_); to > at_) {
        Take(Token::Kind::kName, to);
      } else if (IsDigit(c)) {
        LexNumber();
      } else if (c == '"' || c == '\'') {
        LexString(c);
      } else if (!LexOperator(&open)) {
        size_t end = at_;
        NextCharacter(source_, &end);
        Fail(absl::StrCat("unexpected character '", source_.substr(at_, end - at_), "'"));
      }
      if (!status_.ok()) return;
    }
  }

  // Where the letters, digits and _ from `at` on end: letters of any language.
  size_t NameEnd(size_t at) const {
    while (at < source_.size()) {
      size_t next = at;
      const int32_t c = NextCharacter(source_, &next);
      if (c < 0x80 ? !IsNamePart(source_[at]) : !IsLetter(c)) break;
      at = next;
    }
    return at;
  }

  void Take(Token::Kind kind, size_t to) {
    Add(kind, source_.substr(at_, to - at_));
    MoveTo(to);
  }

  size_t Digits(size_t at) const {
    while (at < source_.size() && (IsDigit(source_[at]) || source_[at] == '_')) ++at;
    return at;
  }

  void LexNumber() {
    size_t to = Digits(at_);
    bool real = false;
    // Behind a dot it is an index: a.0.1
    const bool index = tokens_.back().kind == Token::Kind::kOperator && tokens_.back().text == ".";
    if (!index && Looks(to, ".") && to + 1 < source_.size() && IsDigit(source_[to + 1])) {
      to = Digits(to + 1);
      real = true;
    }
    if (!index && (Looks(to, "e") || Looks(to, "E"))) {
      size_t exponent = to + 1;
      if (exponent < source_.size() && IsSign(source_[exponent])) ++exponent;
      if (exponent < source_.size() && IsDigit(source_[exponent])) {
        to = Digits(exponent);
        real = true;
      }
    }
    const size_t begin = at_;
    MoveTo(to);
    std::string digits = source_.substr(begin, to - begin);
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    Add(real ? Token::Kind::kFloat : Token::Kind::kInteger, digits);
  }

  void LexString(char quote) {
    std::string value;
    size_t at = at_ + 1;
    while (at < source_.size() && source_[at] != quote) {
      if (source_[at] != '\\') {
        value += source_[at++];
      } else if (!ReadEscape(&at, &value)) {
        return;
      }
    }
    if (at >= source_.size()) return Fail("a string does not end");
    Add(Token::Kind::kString, value);
    MoveTo(at + 1);
  }

  // An escape of Python's strings, whose backslash is at *at.
  bool ReadEscape(size_t* at, std::string* value) {
    constexpr absl::string_view kLetters = "abfnrtv\\'\"";
    constexpr absl::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
    if (*at + 1 >= source_.size()) {
      Fail("a string does not end");
      return false;
    }
    const char c = source_[*at + 1];
    const size_t letter = kLetters.find(c);
    const int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (letter != kLetters.npos) {
      *value += kMeanings[letter];
      *at += 2;
    } else if (c == '\n') {
      *at += 2;
    } else if (digits > 0) {
      return ReadCode(*at + 2, digits, 16, at, value);
    } else if (c >= '0' && c <= '7') {
      int octal = 1;
      while (octal < 3 && *at + 1 + octal < source_.size() && source_[*at + 1 + octal] >= '0' &&
             source_[*at + 1 + octal] <= '7') {
        ++octal;
      }
      return ReadCode(*at + 1, octal, 8, at, value);
    } else if (c == 'N') {
      Fail("\\N is not supported in a string");
      return false;
    } else {  // As in Python, both stay.
      *value += '\\';
      *at += 1;
    }
    return true;
  }

  bool ReadCode(size_t from, int digits, int base, size_t* at, std::string* value) {
    int64_t code = 0;
    for (int i = 0; i < digits; ++i) {
      const char c = from + i < source_.size() ? source_[from + i] : ' ';
      const int digit = IsDigit(c)             ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : 99;
      if (digit >= base) code = -1;
      if (code >= 0) code = code * base + digit;
    }
    if (code < 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
      Fail("an escape in a string is not a character");
      return false;
    }
    AppendCharacter(static_cast<int32_t>(code), value);
    *at = from + digits;
    return true;
  }

  bool LexOperator(std::string* open) {
    constexpr absl::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (absl::string_view name : kOperators) {
      if (!Looks(at_, name)) continue;
      const char c = name[0];
      if (c == '(' || c == '[' || c == '{') open->push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
      if (c == ')' || c == ']' || c == '}') {
        if (open->empty() || open->back() != c) {
          Fail(absl::StrCat("unexpected '", name, "'"));
          return true;
        }
        open->pop_back();
      }
      Take(Token::Kind::kOperator, at_ + name.size());
      return true;
    }
    return false;
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;
  std::vector<Token> tokens_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Lex(const std::string& source) { return Lexer(source).Run(); }

}  // namespace packrat::jinja
