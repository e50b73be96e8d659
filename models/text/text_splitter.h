// Cuts a text by a regular expression, with PCRE2. A byte-level tokenizer does this first.
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
  // `pattern` is written for Oniguruma, the engine of the `tokenizers` library. Only syntax that
  // means the same to both engines and cannot take exponential time is allowed: literals, classes,
  // \s \d \p{L} and other general categories, groups with ?: ?i: and look-around, and repetition of
  // anything but a group. INVALID_ARGUMENT names what else the pattern uses. `keep_gaps`: text
  // between matches becomes a piece too; otherwise it is dropped.
  static absl::StatusOr<std::unique_ptr<TextSplitter>> Create(const std::string& pattern,
                                                              bool keep_gaps);
  ~TextSplitter();

  // Calls `piece(begin, end)` for the pieces of text[0, size), valid UTF-8, in order; stops at the
  // first error. INVALID_ARGUMENT if one match takes more than about 10^7 steps.
  absl::Status Split(const char* text, size_t size,
                     const std::function<absl::Status(size_t begin, size_t end)>& piece) const;

 private:
  struct Code;
  TextSplitter();
  std::unique_ptr<Code> code_;
  bool keep_gaps_ = true;
};

// `pattern` in PCRE2's language; see Create(). For tests.
absl::StatusOr<std::string> TranslatePattern(const std::string& pattern);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TEXT_SPLITTER_H_
