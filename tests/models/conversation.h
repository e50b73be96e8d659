// Conversations as tests/data/chat_templates/snippets.py writes them.
#ifndef PACKRAT_TESTS_MODELS_CONVERSATION_H_
#define PACKRAT_TESTS_MODELS_CONVERSATION_H_

#include <optional>
#include <string>

#include "models/text/chat_template.h"
#include "nlohmann/json.hpp"

namespace packrat {

inline Conversation ToConversation(const nlohmann::ordered_json& json) {
  Conversation conversation;
  for (const auto& message : json["messages"]) {
    ChatTurn turn;
    turn.role = message["role"];
    const auto text = [&message](const char* name) {
      const auto found = message.find(name);
      if (found == message.end() || found->is_null()) return std::optional<std::string>();
      return std::optional<std::string>(found->template get<std::string>());
    };
    turn.content = text("content");
    turn.reasoning_content = text("reasoning_content");
    turn.name = text("name");
    turn.tool_call_id = text("tool_call_id");
    if (message.contains("tool_calls")) turn.tool_calls_json = message["tool_calls"].dump();
    conversation.messages.push_back(turn);
  }
  if (json.contains("tools")) conversation.tools_json = json["tools"].dump();
  if (json.contains("kwargs")) conversation.template_kwargs_json = json["kwargs"].dump();
  conversation.add_generation_prompt = json.value("add_generation_prompt", true);
  return conversation;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_MODELS_CONVERSATION_H_
