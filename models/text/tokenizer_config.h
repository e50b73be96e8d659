// Reads the files beside a tokenizer's vocabulary: tokenizer_config.json, and in older folders
// added_tokens.json and special_tokens_map.json.
#ifndef PACKRAT_MODELS_TEXT_TOKENIZER_CONFIG_H_
#define PACKRAT_MODELS_TEXT_TOKENIZER_CONFIG_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace packrat {

struct AddedToken {
  int id = -1;
  std::string content;
  bool special = false;
};

// Fields that no file sets keep these values.
struct TokenizerConfig {
  std::optional<bool> add_bos;
  std::string bos_token, eos_token;
  // For a tokenizer.model. `legacy`: text after a special token is treated as a new text and gets a
  // space before it. `add_prefix_space`: false if no text gets a space.
  bool legacy = true, add_prefix_space = true;
  std::vector<AddedToken> added_tokens;  // By id, each id and content once.
  // What chat templates know the special tokens by: "bos_token" and the like.
  std::vector<std::pair<std::string, std::string>> token_names;
  std::vector<std::string> additional_special_tokens;
  // Chat templates with their names; a single one is "default".
  std::vector<std::pair<std::string, std::string>> chat_templates;
  std::string chat_template_error;  // Why they cannot be read; empty: they can.
};

// Reads the files that DIR has. INVALID_ARGUMENT names file and field if something is wrong or not
// supported. Not supported are add_eos_token, since a text that has ended cannot be continued, and
// added tokens that take the white space beside them or match whole words only.
absl::StatusOr<TokenizerConfig> LoadTokenizerConfig(const std::string& dir);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TOKENIZER_CONFIG_H_
