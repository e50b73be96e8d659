// Reads the files beside a tokenizer's vocabulary: tokenizer_config.json, and in older folders
// added_tokens.json and special_tokens_map.json.
#ifndef PACKRAT_MODELS_TEXT_TOKENIZER_CONFIG_H_
#define PACKRAT_MODELS_TEXT_TOKENIZER_CONFIG_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "models/files/json.h"
#include "models/files/json_fields.h"

namespace packrat {

struct AddedTokenFlags {
  bool left_strip = false, right_strip = false;  // It takes the white space beside it.
  bool single_word = false;                      // It is none within a word.
};

struct AddedToken {
  int id = -1;
  std::string content;
  bool special = false, normalized = true;  // Normalized: it is looked for in normalized text.
  AddedTokenFlags flags;
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

// The flags of one token, which tokenizer.json writes alike: "lstrip", "rstrip", "single_word".
AddedTokenFlags ReadAddedTokenFlags(JsonFields* fields);

// Reads the files that DIR has. INVALID_ARGUMENT names file and field if something is wrong or not
// supported. Not supported is add_eos_token, since a text that has ended cannot be continued.
// `listing`: a tokenizer.json beside the vocabulary, null if there is none; folders that
// transformers 5 has written list added tokens there alone, and nothing else of it counts.
absl::StatusOr<TokenizerConfig> LoadTokenizerConfig(const std::string& dir,
                                                    const Json& listing = Json());

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TOKENIZER_CONFIG_H_
