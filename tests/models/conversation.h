// Conversations as tests/data/chat_templates/snippets.py writes them.
#ifndef PACKRAT_TESTS_MODELS_CONVERSATION_H_
#define PACKRAT_TESTS_MODELS_CONVERSATION_H_

#include <string>

#include "models/text/chat_template.h"
#include "nlohmann/json.hpp"

namespace packrat {

inline Conversation ToConversation(const nlohmann::ordered_json& json) {
  Conversation conversation;
  for (const auto& message : json["messages"]) {
    ChatTurn turn;
    turn.role = message["role"];
    if (!message["content"].is_null()) turn.content = message["content"].get<std::string>();
    if (message.contains("name")) turn.name = message["name"].get<std::string>();
    if (message.contains("tool_call_id")) {
      turn.tool_call_id = message["tool_call_id"].get<std::string>();
    }
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
