// Reads the characters of a text that describes a grammar.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_TEXT_READER_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_TEXT_READER_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace packrat {

// INVALID_ARGUMENT if `text` is empty, longer than kMaxGrammarBytes, or not UTF-8.
absl::Status CheckGrammarText(absl::string_view text);

class TextReader {
 public:
  // `text` is valid UTF-8, and outlives the reader.
  explicit TextReader(absl::string_view text) : text_(text) {}

  bool done() const { return at_ == text_.size(); }
  size_t at() const { return at_; }
  // The next byte, or the one `ahead` behind it; NUL behind the end.
  char Peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  bool Skip(absl::string_view expected);  // True if it came.
  uint32_t Character();                   // A whole one. Not done.
  // Exactly so many hexadecimal digits, or -1; at most 8.
  int64_t Hex(int digits);
  // Decimal digits; at most 10^9, which stands for all that is more. -1 if there are none.
  int64_t Number();

  // INVALID_ARGUMENT: "at byte 7: WHY", or with the line where there are several.
  absl::Status Error(absl::string_view why) const { return ErrorAt(at_, why); }
  absl::Status ErrorAt(size_t at, absl::string_view why) const;

 private:
  const absl::string_view text_;
  size_t at_ = 0;
};

// The counts of a repeat: {m}, {m,}, {m,n}; behind its opening brace. `max`: -1 for no bound.
// Spaces are skipped where `spaces` allows them.
struct RepeatCounts {
  int64_t min, max;
};
absl::StatusOr<RepeatCounts> ReadRepeat(TextReader* reader, bool spaces);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_TEXT_READER_H_
