// Finds added tokens in a text. A tokenizer looks for them first and then cuts the rest.
#ifndef PACKRAT_MODELS_TEXT_ADDED_TOKENS_H_
#define PACKRAT_MODELS_TEXT_ADDED_TOKENS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace packrat {

class AddedTokens {
 public:
  // `text` is not empty. If it was added before, it keeps its first id. False if tokens that begin
  // with the same byte have so many lengths that looking for them would take too long.
  bool Add(const std::string& text, int32_t id);
  // Calls `take` with the beginning, size and id of every token in text[begin, end), in order, and
  // of those that begin at one place with the longest first. It returns how many bytes it takes; 0
  // passes the token over, so that a shorter one may be found there.
  void Find(const std::string& text, size_t begin, size_t end,
            const std::function<size_t(size_t, size_t, int32_t)>& take) const;

 private:
  // Bytes that are looked at for one byte of a text. Gemma's lines and spaces take 1,500.
  static constexpr size_t kMaxTried = 1 << 14;

  absl::flat_hash_map<std::string, int32_t> ids_;
  std::array<std::vector<size_t>, 256> sizes_;  // By first byte: sizes of tokens, longest first.
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_ADDED_TOKENS_H_
