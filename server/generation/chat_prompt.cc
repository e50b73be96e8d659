#include "server/generation/chat_prompt.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/bounds.h"
#include "models/text/chat_template.h"
#include "proto/packrat/v1/inference.pb.h"

namespace packrat {
namespace {

size_t BytesOf(const v1::ChatMessages& chat) {
  size_t bytes = chat.tools_json().size() + chat.template_kwargs_json().size();
  for (const v1::ChatMessage& message : chat.messages()) {
    bytes += message.role().size() + message.content().size() + message.name().size() +
             message.tool_calls_json().size() + message.tool_call_id().size();
  }
  return bytes;
}

ChatTurn MakeTurn(const v1::ChatMessage& message) {
  ChatTurn turn;
  turn.role = message.role();
  if (message.has_content()) turn.content = message.content();
  if (message.has_name()) turn.name = message.name();
  if (message.has_tool_calls_json()) turn.tool_calls_json = message.tool_calls_json();
  if (message.has_tool_call_id()) turn.tool_call_id = message.tool_call_id();
  return turn;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodeChat(const v1::ChatMessages& chat,
                                                const Tokenizer& tokenizer, size_t max_bytes,
                                                absl::Time now) {
  const absl::StatusOr<ChatTemplate>& chat_template = tokenizer.chat_template();
  if (!chat_template.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("chat: ", chat_template.status().message(), "; send text instead"));
  }
  absl::Status status = bounds::kChatMessages.Check("chat.messages", chat.messages_size());
  if (!status.ok()) return status;
  const size_t bytes = BytesOf(chat);
  if (bytes > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("chat has ", bytes, " bytes; at most ", max_bytes));
  }
  Conversation conversation;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& message = chat.messages(i);
    status = bounds::kChatRole.Check(absl::StrCat("chat.messages[", i, "].role"),
                                     static_cast<double>(message.role().size()));
    if (!status.ok()) return status;
    conversation.messages.push_back(MakeTurn(message));
  }
  if (chat.has_tools_json()) conversation.tools_json = chat.tools_json();
  if (chat.has_template_kwargs_json()) {
    conversation.template_kwargs_json = chat.template_kwargs_json();
  }
  if (chat.has_add_generation_prompt()) {
    conversation.add_generation_prompt = chat.add_generation_prompt();
  }
  const absl::StatusOr<MarkedText> prompt = chat_template->Render(conversation, max_bytes, now);
  if (!prompt.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("chat.", prompt.status().message()));
  }
  return tokenizer.Encode(*prompt);
}

}  // namespace packrat
