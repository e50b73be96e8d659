// The files beside a tokenizer's vocabulary: tokenizer_config.json, and in older folders
// added_tokens.json and special_tokens_map.json.
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
  // For a tokenizer.model. `legacy`: the text after a special token counts as a text of its own,
  // which gets a space before it. `add_prefix_space`: false if no text gets one.
  bool legacy = true, add_prefix_space = true;
  std::vector<AddedToken> added_tokens;  // By id, each id and content once.
};

// Reads those of the files that DIR has. INVALID_ARGUMENT, with the file and the field, for what is
// wrong or not supported: add_eos_token (a text that has ended cannot be continued), and added
// tokens that take the white space beside them or must be words of their own.
absl::StatusOr<TokenizerConfig> LoadTokenizerConfig(const std::string& dir);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TOKENIZER_CONFIG_H_
