// Sessions of several API keys: each sees its own, has its share, and is charged what is new.
#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/sessions.h"

namespace packrat {
namespace {

using ::testing::HasSubstr;

using SessionTenantsTest = SessionsFixture;

TEST_F(SessionTenantsTest, EachHasItsOwn) {
  StartWith({{"a", ""}, {"b", ""}});
  SessionClient a(OptionsOf("a")), b(OptionsOf("b"));
  const std::string of_a = a.Create();
  for (const absl::Status& status : b.AllWith(of_a)) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
  }
  // As one that never was, to the last word.
  EXPECT_EQ(b.AllWith(of_a), b.AllWith(std::string(22, 'A')));
  for (const absl::Status& status : client_->AllWith(of_a)) {
    EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
  }
  v1::ListSessionsResponse list;
  ASSERT_TRUE(b->ListSessions({}, &list).status.ok());
  EXPECT_EQ(list.total(), 0);
  ASSERT_TRUE(a->ListSessions({}, &list).status.ok());
  EXPECT_EQ(list.total(), 1);
  for (const absl::Status& status : a.AllWith(of_a)) EXPECT_TRUE(status.ok()) << status;
}

TEST_F(SessionTenantsTest, EachHasItsShare) {
  options_.server.sessions.max_sessions = 4;
  options_.server.sessions.max_tokens = 100;
  StartWith({{"a", "session_share=0.25"}, {"b", ""}});
  SessionClient a(OptionsOf("a")), b(OptionsOf("b"));
  const std::string of_a = a.Create();
  v1::Session session;
  const absl::Status refused = a->CreateSession({}, &session).status;
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("a has 1 sessions; at most 1"));
  b.Create();
  v1::GenerateRequest request = Ids({5}, 25);
  request.set_session(of_a);
  absl::Status status = a.Generate(request).status;
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("this takes 26 more; at most 25"));
  request.mutable_stop()->set_max_tokens(24);
  EXPECT_TRUE(a.Generate(request).status.ok());
}

// A turn is charged with what it brings and what it says, not with what the session holds already.
TEST_F(SessionTenantsTest, ATurnIsChargedWithWhatIsNew) {
  StartWith({{"a", "tokens_per_minute=150"}});
  SessionClient a(OptionsOf("a"));
  const std::string session = a.Create();
  for (int i = 0; i < 3; ++i) {
    const Turn turn = a.Say(session, Tokens(25, 5 + i), 5);
    ASSERT_TRUE(turn.status.ok()) << turn.status;
  }
  EXPECT_EQ(a.Show(session).tokens(), 90);
  // Less than 61 are left, and no minute has passed.
  const absl::Status refused = a.Say("", Tokens(90, 5), 10).status;
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("this request may take 100"));
  EXPECT_TRUE(a.Say(session, {6}, 5).status.ok());
}

// Whoever has the history computed again pays for it.
TEST_F(SessionTenantsTest, WhatIsComputedAgainIsCharged) {
  StartWith({{"a", "tokens_per_minute=200"}});
  SessionClient a(OptionsOf("a"));
  const std::string session = a.Create();
  ASSERT_TRUE(a.Say(session, Tokens(100, 5), 5).status.ok());
  v1::GenerateRequest again = Ids({6}, 4);
  again.set_session(session);
  again.set_use_cache(false);
  const absl::Status refused = a.Generate(again).status;
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("this request may take 110"));
  // With another salt nothing is known of the text: that shows when it is computed, and is owed.
  again.clear_use_cache();
  again.set_cache_salt("other");
  ASSERT_TRUE(a.Generate(again).status.ok());
  again.set_cache_salt("");
  // A moment after the client has heard the end.
  EXPECT_TRUE(Eventually([&] { return absl::IsResourceExhausted(a.Generate(again).status); }));
}

}  // namespace
}  // namespace packrat
