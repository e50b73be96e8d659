#include "server/client/conversation.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

void AddMessage(const char* role, const std::string& content, v1::ChatMessages* chat) {
  v1::ChatMessage* const message = chat->add_messages();
  message->set_role(role);
  message->set_content(content);
}

}  // namespace

std::string ChatConversation::Said(const std::string& line, bool first) const {
  return absl::StrCat(first ? "" : "\n", style_.user_label, line,
                      style_.reply_label.empty() ? "" : "\n", style_.reply_label);
}

std::string ChatConversation::Text() const {
  std::string text;
  for (const Turn& turn : turns_) {
    if (style_.form == ChatForm::kMessages) {
      absl::StrAppend(&text, text.empty() ? "" : "\n\n", "user: ", turn.line,
                      "\n\nassistant: ", turn.answer);
    } else {
      absl::StrAppend(&text, Said(turn.line, /*first=*/text.empty()), turn.answer);
    }
  }
  return text;
}

void ChatConversation::Ask(const std::string& line, v1::GenerateRequest* request) const {
  switch (style_.form) {
    case ChatForm::kText:
      request->set_text(Text() + Said(line, turns_.empty()));
      break;
    case ChatForm::kSession:
      request->set_session(session.handle);
      request->set_text(Said(line, !session.has_text));
      break;
    case ChatForm::kMessages: {
      if (!session.handle.empty()) request->set_session(session.handle);
      v1::ChatMessages* const chat = request->mutable_chat();
      chat->Clear();
      if (!style_.system.empty()) AddMessage("system", style_.system, chat);
      for (const Turn& turn : turns_) {
        AddMessage("user", turn.line, chat);
        AddMessage("assistant", turn.answer, chat);
      }
      AddMessage("user", line, chat);
      break;
    }
  }
}

void ChatConversation::Rewind(size_t count) {
  turns_.resize(turns_.size() - std::min(count, turns_.size()));
}

void ChatConversation::LeaveSession() {
  session.turns = 0;
  session.has_text = false;
  for (Turn& turn : turns_) turn.before = 0;
}

}  // namespace packrat
