// The chat template of a model: what turns the messages of a conversation into a prompt.
#ifndef PACKRAT_MODELS_TEXT_CHAT_TEMPLATE_H_
#define PACKRAT_MODELS_TEXT_CHAT_TEMPLATE_H_

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "models/text/jinja/template.h"
#include "models/text/marked_text.h"
#include "models/text/tokenizer_config.h"
#include "models/text/tool_calls/tool_format.h"

namespace packrat {

struct ChatTurn {
  std::string role;
  std::optional<std::string> content, name, tool_calls_json, tool_call_id, reasoning_content;
};

struct Conversation {
  std::vector<ChatTurn> messages;
  std::optional<std::string> tools_json;
  bool add_generation_prompt = true;
  std::optional<std::string> template_kwargs_json;
};

class ChatTemplate {
 public:
  // Reads DIR/chat_template.jinja, or else the templates of tokenizer_config.json, or else
  // DIR/chat_template.json. NOT_FOUND if there is none. INVALID_ARGUMENT names the file, and the
  // line that is not understood.
  static absl::StatusOr<ChatTemplate> Load(const std::string& dir, const TokenizerConfig& config);

  // The prompt: as transformers' apply_chat_template(), with marks for what the template itself
  // wrote. Thread-safe. INVALID_ARGUMENT names the field ("messages[3].tool_calls_json: ..."), or
  // has the words with which the template refuses the conversation, or says why it fails.
  // `max_bytes`: of the prompt.
  absl::StatusOr<MarkedText> Render(const Conversation& conversation, size_t max_bytes,
                                    absl::Time now) const;

  // Whether a template has this word in quotes, as it has the names of roles: letters, digits, _
  // and -, up to 64.
  bool Names(const std::string& word) const { return words_.contains(word); }

  // How the model writes calls of tools; null if its templates do not show it.
  const ToolFormat* tool_format() const { return tool_format_; }

 private:
  ChatTemplate() = default;
  absl::Status Add(const std::string& where, const std::string& name, const std::string& source);

  std::vector<std::pair<std::string, jinja::Template>> templates_;  // By name.
  jinja::Template::Variables token_names_;
  const ToolFormat* tool_format_ = nullptr;
  absl::flat_hash_set<std::string> words_;  // In quotes.
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_CHAT_TEMPLATE_H_
