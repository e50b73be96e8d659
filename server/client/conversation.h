// The text of a chat: what was said in it, and what its next turn sends.
#ifndef PACKRAT_SERVER_CLIENT_CONVERSATION_H_
#define PACKRAT_SERVER_CLIENT_CONVERSATION_H_

#include <cstddef>
#include <string>
#include <vector>

#include "proto/packrat/v1/inference.pb.h"

namespace packrat {

// How turns reach the model.
enum class ChatForm {
  kText,      // Each turn sends the text of all of them.
  kSession,   // The server has the text; a turn sends its own.
  kMessages,  // Each turn sends all of them as messages, for the model's chat template; in a
              // session too, which then holds what the template has made of them.
};

struct ChatStyle {
  ChatForm form = ChatForm::kText;
  std::string user_label, reply_label;  // Texts: before what the user says, and before the answer.
  std::string system;                   // Messages: what the first says; empty: there is none.
};

class ChatConversation {
 public:
  explicit ChatConversation(ChatStyle style) : style_(std::move(style)) {}

  // Puts a turn that says `line` into the request, with what comes before it.
  void Ask(const std::string& line, v1::GenerateRequest* request) const;
  void Add(const std::string& line, const std::string& answer) {
    turns_.push_back({line, answer, session.turns});
  }

  size_t turns() const { return turns_.size(); }
  // What the user said in the last turn, of which there is one.
  const std::string& last_line() const { return turns_.back().line; }
  // Forgets the last `count` turns, of which it has so many, or fewer where the first were before
  // this chat.
  void Rewind(size_t count);
  // Of the session's turns those that stay where the last `count` of these go. There are so many.
  int SessionTurnsBefore(size_t count) const { return turns_[turns_.size() - count].before; }
  // The session has been emptied, and gets all that was said here with the next turn.
  void LeaveSession();

  // What was said here, as the model sees it; of messages each with its role.
  std::string Text() const;

  // In a session: its handle, its turns, those from before this chat too, and whether it has a
  // text.
  struct {
    std::string handle;
    int turns = 0;
    bool has_text = false;
  } session;

 private:
  struct Turn {
    std::string line, answer;
    int before;  // Turns of the session.
  };
  // What a turn adds to the text before it.
  std::string Said(const std::string& line, bool first) const;

  ChatStyle style_;
  std::vector<Turn> turns_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_CONVERSATION_H_
