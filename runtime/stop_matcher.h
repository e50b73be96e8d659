// Finds stop strings in text that comes in pieces, and says how much of the text can no longer
// become part of one.
#ifndef PACKRAT_RUNTIME_STOP_MATCHER_H_
#define PACKRAT_RUNTIME_STOP_MATCHER_H_

#include <cstddef>
#include <string>
#include <vector>

namespace packrat {

class StopMatcher {
 public:
  // None of `stop_strings` is empty.
  explicit StopMatcher(const std::vector<std::string>& stop_strings);

  // Takes the next `size` bytes. True if a stop string is complete: the one that ends first, of
  // those the longest; then safe_bytes() is where it begins, and nothing more may be pushed.
  // With `ignore`, complete stop strings are passed over as text.
  bool Push(const char* text, size_t size, bool ignore);

  // Bytes from the start of the text that no stop string can take back. Never decreases.
  size_t safe_bytes() const { return safe_; }
  // Whether the text ends with what a stop string may begin with, or with one.
  bool open() const { return safe_ < seen_; }

 private:
  // Knuth-Morris-Pratt: `matched` bytes of `text` are the longest of its prefixes that the text so
  // far ends with; fallback[i] is the next shorter one where i bytes match.
  struct Pattern {
    std::string text;
    std::vector<int> fallback;
    size_t matched = 0;
  };
  std::vector<Pattern> patterns_;
  size_t seen_ = 0;
  size_t safe_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_STOP_MATCHER_H_
