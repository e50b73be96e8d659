#include "models/text/text_splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cctype>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

constexpr size_t kMaxPatternBytes = 4096;

// Reads a pattern and writes its translation. It refuses what it does not know, since the two
// engines agree on little beyond the basics.
class Translator {
 public:
  explicit Translator(const std::string& pattern) : in_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (error_.empty() && at_ < in_.size()) Item();
    if (error_.empty() && depth_ != 0) Fail("a group has no end");
    if (error_.empty()) return out_;
    return absl::InvalidArgumentError(absl::StrCat(error_, ", at byte ", at_, " of the pattern"));
  }

 private:
  void Fail(const std::string& why) {
    if (error_.empty()) error_ = why;
  }
  bool Next(const char* what) const { return in_.compare(at_, std::strlen(what), what) == 0; }
  void Copy(size_t bytes) {
    out_.append(in_, at_, bytes);
    at_ += bytes;
  }

  void Item() {
    const char c = in_[at_];
    if (c == '|') return Copy(1);
    if (c == '(') return OpenGroup();
    if (c == ')') {
      if (--depth_ < 0) return Fail("a group has no beginning");
      Copy(1);
      // (a+)+ takes exponential time where it does not match.
      if (Next("*") || Next("+") || Next("{")) return Fail("a repeated group is not supported");
      return Quantifier();
    }
    if (c == '[') {
      Class();
    } else if (c == '\\') {
      Escape();
    } else if (std::strchr("*+?{}]^$.", c) != nullptr) {
      return Fail(absl::StrCat("\"", std::string(1, c), "\" is not supported here"));
    } else {
      Copy(1);
      while (at_ < in_.size() && (in_[at_] & 0xc0) == 0x80) Copy(1);  // The rest of a character.
    }
    if (error_.empty()) Quantifier();
  }

  void OpenGroup() {
    ++depth_;
    for (const char* kind : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!"}) {
      if (Next(kind)) return Copy(std::strlen(kind));
    }
    if (Next("(?") || Next("(*")) return Fail("this kind of group is not supported");
    Copy(1);
  }

  void Quantifier() {
    if (Next("{")) return Count();
    if (!Next("*") && !Next("+") && !Next("?")) return;
    Copy(1);
    if (Next("?") || Next("+")) Copy(1);  // Lazy, possessive.
    if (Next("*") || Next("+") || Next("?") || Next("{")) Fail("a repeated repetition");
  }

  // {2}, {2,} or {2,3}. A suffix such as ? means different things to the engines.
  void Count() {
    const size_t end = in_.find('}', at_);
    if (end == std::string::npos) return Fail("\"{\" without an end");
    const std::string inside = in_.substr(at_ + 1, end - at_ - 1);
    if (inside.empty() || !std::isdigit(static_cast<unsigned char>(inside[0])) ||
        inside.find_first_not_of("0123456789,") != std::string::npos ||
        inside.find(',') != inside.rfind(',') || inside.size() > 9) {
      return Fail("a count must look like {2}, {2,} or {2,3}");
    }
    Copy(end + 1 - at_);
    if (Next("*") || Next("+") || Next("?") || Next("{")) Fail("a repeated repetition");
  }

  void Class() {
    Copy(1);
    if (Next("^")) Copy(1);
    if (Next("]")) return Fail("an empty class");
    while (error_.empty() && at_ < in_.size() && !Next("]")) {
      if (Next("[") || Next("&&")) return Fail("a class within a class is not supported");
      Next("\\") ? Escape() : Copy(1);
    }
    if (at_ >= in_.size()) return Fail("a class has no end");
    if (error_.empty()) Copy(1);
  }

  void Escape() {
    const char c = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    // PCRE2's \s includes U+180E, which has not been white space since Unicode 6.3.
    if (c == 's' || c == 'S') {
      out_ += c == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
      at_ += 2;
    } else if (c == 'p' || c == 'P') {
      Category();
    } else if (c == 'u') {
      const std::string digits = in_.substr(at_ + 2, 4);
      if (digits.size() < 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos) {
        return Fail("\\u needs four hexadecimal digits");
      }
      absl::StrAppend(&out_, "\\x{", digits, "}");
      at_ += 6;
    } else if (c == 'd' || c == 'D' || c == 'r' || c == 'n' || c == 't' || c == 'f' ||
               std::ispunct(static_cast<unsigned char>(c))) {
      Copy(2);
    } else {
      Fail("this escape is not supported");
    }
  }

  // \p{L}, \p{Lu}: general categories. Names of scripts mean different things to the engines.
  void Category() {
    const size_t end = in_.find('}', at_);
    const size_t size = end == std::string::npos ? 0 : end - at_ - 3;
    if (in_.compare(at_ + 2, 1, "{") != 0 || end == std::string::npos || size < 1 || size > 2 ||
        std::strchr("LMNPSZC", in_[at_ + 3]) == nullptr ||
        (size == 2 && !std::islower(static_cast<unsigned char>(in_[at_ + 4])))) {
      return Fail("\\p is supported with general categories only, e.g. \\p{L} or \\p{Lu}");
    }
    Copy(end + 1 - at_);
  }

  const std::string& in_;
  size_t at_ = 0;
  int depth_ = 0;
  std::string out_, error_;
};

std::string ErrorText(int code) {
  PCRE2_UCHAR text[200] = "";
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

struct TextSplitter::Code {
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

TextSplitter::TextSplitter() : code_(std::make_unique<Code>()) {}
TextSplitter::~TextSplitter() = default;

absl::StatusOr<std::string> TranslatePattern(const std::string& pattern) {
  if (pattern.empty()) return absl::InvalidArgumentError("the pattern is empty");
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the pattern has more than ", kMaxPatternBytes, " bytes"));
  }
  return Translator(pattern).Run();
}

std::string PatternOfText(const std::string& text) {
  std::string pattern;
  for (char c : text) {
    if (std::ispunct(static_cast<unsigned char>(c))) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

absl::StatusOr<std::unique_ptr<TextSplitter>> TextSplitter::Create(const std::string& pattern,
                                                                   Behavior behavior, bool invert) {
  const absl::StatusOr<std::string> translated = TranslatePattern(pattern);
  if (!translated.ok()) return translated.status();
  std::unique_ptr<TextSplitter> made(new TextSplitter);
  made->behavior_ = behavior;
  made->invert_ = invert;
  int error = 0;
  PCRE2_SIZE where = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                    PCRE2_UTF | PCRE2_UCP, &error, &where, nullptr);
  if (code == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("the pattern is refused: ", ErrorText(error)));
  }
  made->code_->code = code;
  uint32_t matches_nothing = 0;
  pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &matches_nothing);
  if (matches_nothing != 0) {
    return absl::InvalidArgumentError(
        "the pattern may match an empty text, which is not supported");
  }
  // This fails if memory cannot be made executable. The interpreter then finds the same.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return made;
}

// Makes pieces of the matches and gaps of a text, which come in order and without holes.
struct TextSplitter::Pieces {
  const Behavior behavior;
  const std::function<absl::Status(size_t begin, size_t end)>& take;
  size_t begin = 0, end = 0;  // What is not taken yet.
  bool held = false, held_is_match = false;

  absl::Status Add(size_t from, size_t to, bool is_match) {
    if (behavior == Behavior::kRemoved) return is_match ? absl::OkStatus() : take(from, to);
    if (behavior == Behavior::kIsolated) return take(from, to);
    const bool joins = behavior == Behavior::kContiguous           ? is_match == held_is_match
                       : behavior == Behavior::kMergedWithPrevious ? is_match && !held_is_match
                                                                   : held_is_match && !is_match;
    absl::Status status;
    if (!held || !joins) {
      status = Finish();
      begin = from;
    }
    end = to;
    held = true;
    held_is_match = is_match;
    return status;
  }
  absl::Status Finish() const { return held ? take(begin, end) : absl::OkStatus(); }
};

absl::Status TextSplitter::Split(
    const char* text, size_t size,
    const std::function<absl::Status(size_t begin, size_t end)>& piece) const {
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  Pieces pieces{behavior_, piece};
  size_t done = 0;
  while (done < size) {
    const int found = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text), size, done,
                                  PCRE2_NO_UTF_CHECK, data.get(), nullptr);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("text: cannot be cut into words: ", ErrorText(found)));
    }
    const PCRE2_SIZE* match = pcre2_get_ovector_pointer(data.get());
    if (match[0] > done) {
      if (absl::Status status = pieces.Add(done, match[0], invert_); !status.ok()) return status;
    }
    if (absl::Status status = pieces.Add(match[0], match[1], !invert_); !status.ok()) return status;
    done = match[1];
  }
  if (done < size) {
    if (absl::Status status = pieces.Add(done, size, invert_); !status.ok()) return status;
  }
  return pieces.Finish();
}

}  // namespace packrat
