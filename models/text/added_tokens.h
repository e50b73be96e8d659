// Tokens that are found in a text before a tokenizer cuts the rest.
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
  // `text` is not empty. If it was added before, the first id stays.
  void Add(const std::string& text, int32_t id);
  // Calls `found` with the beginning, size and id of every token in text[begin, end), in order.
  // Where several begin, it is the longest.
  void Find(const std::string& text, size_t begin, size_t end,
            const std::function<void(size_t, size_t, int32_t)>& found) const;

 private:
  absl::flat_hash_map<std::string, int32_t> ids_;
  std::array<std::vector<size_t>, 256> sizes_;  // By first byte: those that occur, longest first.
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_ADDED_TOKENS_H_
