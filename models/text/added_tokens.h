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
  // `text` is not empty. If it was added before, it keeps its first id.
  void Add(const std::string& text, int32_t id);
  // Calls `found` with the beginning, size and id of every token in text[begin, end), in order.
  // Where several tokens begin at one place, the longest is taken.
  void Find(const std::string& text, size_t begin, size_t end,
            const std::function<void(size_t, size_t, int32_t)>& found) const;

 private:
  absl::flat_hash_map<std::string, int32_t> ids_;
  std::array<std::vector<size_t>, 256> sizes_;  // By first byte: sizes of tokens, longest first.
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_ADDED_TOKENS_H_
