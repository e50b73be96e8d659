// What the turns of a chat send.
#include "server/client/conversation.h"

#include <string>

#include "gtest/gtest.h"

namespace packrat {
namespace {

TEST(ConversationTest, ATextGoesOn) {
  ChatStyle style;
  style.user_label = "U: ";
  style.reply_label = "A:";
  style.system = "not for texts";
  ChatConversation chat(style);
  v1::GenerateRequest request;
  chat.Ask("one", &request);
  EXPECT_EQ(request.text(), "U: one\nA:");
  chat.Add("one", " yes");
  chat.Ask("two", &request);
  EXPECT_EQ(request.text(), "U: one\nA: yes\nU: two\nA:");
  EXPECT_EQ(chat.Text(), "U: one\nA: yes");
  chat.Add("two", " no");
  EXPECT_EQ(chat.last_line(), "two");
  chat.Rewind(1);
  EXPECT_EQ(chat.Text(), "U: one\nA: yes");
  chat.Rewind(5);
  EXPECT_EQ(chat.turns(), 0u);
  chat.Ask("three", &request);
  EXPECT_EQ(request.text(), "U: three\nA:");
}

TEST(ConversationTest, ATurnInASessionSendsItsOwn) {
  ChatStyle style;
  style.form = ChatForm::kSession;
  ChatConversation chat(style);
  chat.session.handle = "handle";
  v1::GenerateRequest request;
  chat.Ask("one", &request);
  EXPECT_EQ(request.session(), "handle");
  EXPECT_EQ(request.text(), "one");
  chat.Add("one", " yes");
  chat.session.has_text = true;
  chat.Ask("two", &request);
  EXPECT_EQ(request.text(), "\ntwo");
}

TEST(ConversationTest, MessagesAreSentWhole) {
  ChatStyle style;
  style.form = ChatForm::kMessages;
  style.system = "be brief";
  ChatConversation chat(style);
  chat.Add("one", "yes");
  v1::GenerateRequest request;
  chat.Ask("never sent", &request);
  chat.Ask("two", &request);
  ASSERT_TRUE(request.has_chat());
  std::string all;
  for (const v1::ChatMessage& message : request.chat().messages()) {
    all += message.role() + "=" + message.content() + ";";
  }
  EXPECT_EQ(all, "system=be brief;user=one;assistant=yes;user=two;");
  EXPECT_EQ(chat.Text(), "user: one\n\nassistant: yes");
}

TEST(ConversationTest, MessagesInASessionKnowItsTurns) {
  ChatStyle style;
  style.form = ChatForm::kMessages;
  ChatConversation chat(style);
  chat.session.handle = "handle";
  chat.session.has_text = true;  // Its own, which messages do not add to.
  chat.Add("one", "yes");
  chat.Add("two", "stopped");  // Of which the session has nothing.
  chat.session.turns = 1;
  chat.Add("three", "no");
  chat.session.turns = 2;
  v1::GenerateRequest request;
  chat.Ask("four", &request);
  EXPECT_EQ(request.session(), "handle");
  ASSERT_EQ(request.chat().messages_size(), 7);
  EXPECT_EQ(request.chat().messages(6).content(), "four");
  EXPECT_EQ(chat.SessionTurnsBefore(1), 1);
  EXPECT_EQ(chat.SessionTurnsBefore(2), 0);
  EXPECT_EQ(chat.SessionTurnsBefore(3), 0);
  chat.LeaveSession();
  EXPECT_EQ(chat.SessionTurnsBefore(1), 0);
  EXPECT_EQ(chat.session.turns, 0);
  EXPECT_EQ(chat.session.handle, "handle");
  EXPECT_EQ(chat.turns(), 3u);
}

}  // namespace
}  // namespace packrat
