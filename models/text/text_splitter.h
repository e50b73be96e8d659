// Cuts a text by a regular expression, with PCRE2. A tokenizer does this first.
#ifndef PACKRAT_MODELS_TEXT_TEXT_SPLITTER_H_
#define PACKRAT_MODELS_TEXT_TEXT_SPLITTER_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace packrat {

// Const members are thread-safe.
class TextSplitter {
 public:
  // What becomes of a match: a piece of its own, nothing, a piece with the matches beside it, or
  // the end or beginning of the text beside it, unless that is a match too.
  enum class Behavior { kIsolated, kRemoved, kContiguous, kMergedWithPrevious, kMergedWithNext };

  // `pattern` is written for Oniguruma, the engine of the `tokenizers` library. Only syntax that
  // means the same to both engines and cannot take exponential time is allowed: literals, classes,
  // \s \d \p{L} and other general categories, groups with ?: ?i: and look-around, and repetition of
  // anything but a group. INVALID_ARGUMENT names what else the pattern uses. `invert`: what is
  // between the pattern's matches counts as a match, and what matches does not.
  static absl::StatusOr<std::unique_ptr<TextSplitter>> Create(const std::string& pattern,
                                                              Behavior behavior, bool invert);
  ~TextSplitter();

  // Calls `piece(begin, end)` for the pieces of text[0, size), valid UTF-8, in order; stops at the
  // first error. INVALID_ARGUMENT if one match takes more than about 10^7 steps.
  absl::Status Split(const char* text, size_t size,
                     const std::function<absl::Status(size_t begin, size_t end)>& piece) const;

 private:
  struct Code;
  TextSplitter();
  struct Pieces;
  std::unique_ptr<Code> code_;
  Behavior behavior_ = Behavior::kIsolated;
  bool invert_ = false;
};

// `text` as a pattern that matches it and nothing else.
std::string PatternOfText(const std::string& text);

// `pattern` in PCRE2's language; see Create(). For tests.
absl::StatusOr<std::string> TranslatePattern(const std::string& pattern);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TEXT_SPLITTER_H_
