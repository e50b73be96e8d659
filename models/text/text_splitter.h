// Cuts a text by a regular expression, by PCRE2: the first step of a byte-level tokenizer.
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
  // `pattern` is as the `tokenizers` library writes it, for its own engine (Oniguruma). It may use
  // the part of the language that means the same to both engines and cannot take exponential time:
  // literals, classes, \s \d \p{L} and the like by general category, groups with ?: ?i: and
  // look-around, and repetition of anything but a group. INVALID_ARGUMENT says what else it uses.
  // `keep_gaps`: text between matches becomes a piece too, otherwise it is lost.
  static absl::StatusOr<std::unique_ptr<TextSplitter>> Create(const std::string& pattern,
                                                              bool keep_gaps);
  ~TextSplitter();

  // Calls `piece(begin, end)` for the pieces of text[0, size), valid UTF-8, in order; stops at the
  // first error. INVALID_ARGUMENT if the search gives up (after some 10^7 steps for one match).
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
