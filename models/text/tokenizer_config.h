// What stands beside a tokenizer's vocabulary: tokenizer_config.json, and added_tokens.json and
// special_tokens_map.json of older folders.
#ifndef PACKRAT_MODELS_TEXT_TOKENIZER_CONFIG_H_
#define PACKRAT_MODELS_TEXT_TOKENIZER_CONFIG_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace packrat {

struct AddedToken {
  int id = -1;
  std::string content;
  bool special = false;
};

// Empty: the files say nothing.
struct TokenizerConfig {
  std::optional<bool> add_bos;
  std::string bos_token, eos_token;
  // Of a tokenizer.model. `legacy`: whether the text behind a special token is one of its own,
  // which gets a space before it. `add_prefix_space`: false where no text gets one.
  bool legacy = true, add_prefix_space = true;
  std::vector<AddedToken> added_tokens;  // By id, each id and content once.
};

// Reads what DIR has of these files. INVALID_ARGUMENT, with the file and the field, for what is
// wrong or not supported: add_eos_token (a text that has ended is nothing to continue), and added
// tokens that take the white space beside them or must be words of their own.
absl::StatusOr<TokenizerConfig> LoadTokenizerConfig(const std::string& dir);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TOKENIZER_CONFIG_H_
