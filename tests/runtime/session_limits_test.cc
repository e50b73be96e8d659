// How long sessions live, how many there may be, and who finds them.
#include "runtime/session.h"

#include <gmock/gmock.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "tests/runtime/session_fixture.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST_F(SessionTest, WhatIsNotUsedExpires) {
  const std::string used = Make(), looked_at = Make();
  const auto brief = sessions_.Create({}, absl::Minutes(1), now_);
  ASSERT_TRUE(brief.ok());
  EXPECT_EQ(brief->ttl, absl::Minutes(1));
  now_ += absl::Minutes(1) - absl::Nanoseconds(1);
  EXPECT_TRUE(sessions_.Get({}, brief->handle, now_).ok());
  now_ += absl::Nanoseconds(1);
  EXPECT_TRUE(absl::IsNotFound(sessions_.Get({}, brief->handle, now_).status()));
  now_ += absl::Minutes(8);
  ASSERT_TRUE(TakeTurn(used, {1}, {2}).ok());
  EXPECT_EQ(sessions_.Get({}, looked_at, now_)->idle, absl::Minutes(9));
  now_ += absl::Minutes(1);
  EXPECT_TRUE(absl::IsNotFound(TakeTurn(looked_at, {1}, {2})));
  const auto info = sessions_.Get({}, used, now_);
  EXPECT_EQ(info->idle, absl::Minutes(1));
  EXPECT_EQ(info->age, absl::Minutes(10));
  // Forks and rewinds are uses; a fork lives as long as what it was made from.
  const auto fork = sessions_.Fork({}, used, now_);
  EXPECT_EQ(fork->ttl, absl::Minutes(10));
  now_ += absl::Minutes(9);
  ASSERT_TRUE(sessions_.Rewind({}, used, 1, now_).ok());
  now_ += absl::Minutes(9);
  EXPECT_TRUE(absl::IsNotFound(sessions_.Get({}, fork->handle, now_).status()));
  EXPECT_TRUE(sessions_.Get({}, used, now_).ok());
  now_ += absl::Minutes(1);
  sessions_.Expire(now_);
  EXPECT_EQ(sessions_.stats().sessions, 0);
  EXPECT_EQ(sessions_.stats().tokens, 0);
  EXPECT_EQ(sessions_.stats().created, 4);
  EXPECT_EQ(sessions_.stats().expired, 4);
}

TEST_F(SessionTest, ABusySessionDoesNotExpire) {
  const std::string handle = Make();
  {
    auto turn = sessions_.Begin({}, handle, now_);
    ASSERT_TRUE(turn->Promise({1}, 1).ok());
    now_ += absl::Hours(5);
    sessions_.Expire(now_);
    turn->Append({2});
    turn->Keep(now_);
  }
  now_ += absl::Minutes(9);
  EXPECT_THAT(TextOf(handle), ElementsAre(1, 2));
  now_ += absl::Minutes(1);
  EXPECT_FALSE(sessions_.Get({}, handle, now_).ok());
}

// However long it took.
TEST_F(SessionTest, ATurnThatFailsDoesNotExpireItsSession) {
  const std::string handle = Make();
  ASSERT_TRUE(TakeTurn(handle, {1}, {2}).ok());
  {
    auto turn = sessions_.Begin({}, handle, now_);
    ASSERT_TRUE(turn->Promise({3}, 1).ok());
    now_ += absl::Hours(5);
  }
  now_ += absl::Minutes(1);
  EXPECT_THAT(TextOf(handle), ElementsAre(1, 2));
  now_ += absl::Minutes(9);
  EXPECT_THAT(TextOf(handle), ElementsAre(1, 2));
  now_ += absl::Minutes(1);
  EXPECT_FALSE(sessions_.Get({}, handle, now_).ok());
}

TEST_F(SessionTest, TheTimeToLiveHasARange) {
  for (absl::Duration ttl : {absl::ZeroDuration(), absl::Seconds(-1),
                             absl::Minutes(10) + absl::Nanoseconds(1), absl::InfiniteDuration()}) {
    const absl::Status status = sessions_.Create({}, ttl, now_).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "range (0, 600]")) << status;
  }
}

TEST_F(SessionTest, OthersSessionsAreUnknownInTheSameWords) {
  const SessionOwner a = {"a", 0.5}, b = {"b", 0.5};
  const std::string handle = Make(a);
  ASSERT_TRUE(TakeTurn(handle, {1}, {2}, a).ok());
  const absl::Status never = sessions_.Get(b, "AAAAAAAAAAAAAAAAAAAAAA", now_).status();
  ASSERT_TRUE(absl::IsNotFound(never));
  for (const SessionOwner& other : {b, SessionOwner{}}) {
    for (const absl::Status& status :
         {sessions_.Get(other, handle, now_).status(), sessions_.Fork(other, handle, now_).status(),
          sessions_.Rewind(other, handle, 0, now_).status(),
          sessions_.RewindTurns(other, handle, 9, now_).status(),
          sessions_.Delete(other, handle, now_), sessions_.Begin(other, handle, now_).status()}) {
      EXPECT_EQ(status, never);
    }
    int total = -1;
    EXPECT_THAT(sessions_.List(other, 10, now_, &total), IsEmpty());
    EXPECT_EQ(total, 0);
  }
  // Busy, to its owner alone.
  const auto turn = sessions_.Begin(a, handle, now_);
  EXPECT_EQ(sessions_.Delete(b, handle, now_), never);
  EXPECT_THAT(TextOf(handle, a), ElementsAre(1, 2));
}

TEST_F(SessionTest, HostileHandlesAreUnknown) {
  const std::string handle = Make();
  std::string other_bits = handle;  // The last character has four bits that stand for nothing.
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  other_bits.back() = digits[digits.find(other_bits.back()) ^ 1];
  for (const std::string& hostile :
       {std::string(), std::string("x"), std::string(22, '\0'), std::string(22, 'A'),
        std::string(22, '.'), handle.substr(0, 21), handle + "A", handle + "==", handle + "\n",
        " " + handle, other_bits, std::string("../../etc/passwd"), std::string(1 << 20, 'A'),
        std::string("\xff\xfe\xfd")}) {
    const absl::Status status = sessions_.Get({}, hostile, now_).status();
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    // A log must not repeat what somebody may use.
    EXPECT_EQ(status, sessions_.Get({}, "never", now_).status());
  }
  EXPECT_TRUE(sessions_.Get({}, handle, now_).ok());
}

TEST_F(SessionTest, HandlesAreAllBitsOfTheRandomNumbers) {
  std::vector<uint64_t> numbers = {0, 0,    1, 0, /*its version*/ 9, 1,
                                   0, 0xf8, 0, 0, uint64_t{1} << 63, /*its version*/ 9};
  size_t next = 0;
  Sessions sessions({4, 100, absl::Minutes(1)}, [&] { return numbers.at(next++); });
  std::set<std::string> handles;
  // Zeros are no handle, none is given twice, and none begins with a dash.
  for (int i = 0; i < 2; ++i) {
    handles.insert(sessions.Create({}, std::nullopt, now_)->handle);
  }
  EXPECT_THAT(handles, ElementsAre("AAAAAAAAAAAAAAAAAAAAgA", "AQAAAAAAAAAAAAAAAAAAAA"));
}

TEST_F(SessionTest, SessionsAreLimitedInAllAndForEach) {
  const SessionOwner a = {"a", 0.5}, b = {"b", 0.75};
  const std::string first = Make(a);
  Make(a);
  absl::Status status = sessions_.Create(a, std::nullopt, now_).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(status.message(),
            "a has 2 sessions; at most 2; delete some, or wait until they expire");
  EXPECT_EQ(sessions_.Fork(a, first, now_).status(), status);
  Make(b);
  Make(b);
  status = sessions_.Create(b, std::nullopt, now_).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(status.message(), "all 4 sessions are in use");
  ASSERT_TRUE(sessions_.Delete(a, first, now_).ok());
  Make(b);
  // A share is never nothing.
  now_ += absl::Minutes(10);
  Make({"c", 0.001});
}

TEST_F(SessionTest, TokensAreLimitedInAllAndForEach) {
  const SessionOwner a = {"a", 0.5}, b = {"b", 0.9};
  const std::string of_a = Make(a), of_b = Make(b);
  ASSERT_TRUE(TakeTurn(of_a, Tokens(40, 1), {}, a).ok());
  absl::Status status = TakeTurn(of_a, Tokens(5, 1), Tokens(6, 1), a);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(status.message(),
            "a has 40 tokens in sessions, and this takes 11 more; at most 50; delete some, or wait "
            "until they expire");
  EXPECT_TRUE(absl::IsResourceExhausted(sessions_.Fork(a, of_a, now_).status()));
  status = TakeTurn(of_b, Tokens(61, 1), {}, b);
  EXPECT_EQ(
      status.message(),
      "all tokens in sessions are in use but for fewer than the 61 that this takes; at most 100");
  EXPECT_TRUE(TakeTurn(of_b, Tokens(60, 1), {}, b).ok());
  EXPECT_EQ(TextOf(of_a, a).size(), 40u);
  // What is promised counts.
  ASSERT_TRUE(sessions_.Rewind(b, of_b, 0, now_).ok());
  auto turn = sessions_.Begin(b, of_b, now_);
  ASSERT_TRUE(turn->Promise({1}, 59).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(TakeTurn(of_a, {1}, {}, a)));
}

TEST_F(SessionTest, TheListHasTheLatestFirst) {
  const std::string a = Make(), b = Make(), c = Make();
  now_ += absl::Seconds(1);
  ASSERT_TRUE(TakeTurn(b, {1}, {2}).ok());
  now_ += absl::Seconds(1);
  ASSERT_TRUE(TakeTurn(a, {1}, {}).ok());
  int total = 0;
  const auto list = sessions_.List({}, 2, now_, &total);
  EXPECT_EQ(total, 3);
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].handle, a);
  EXPECT_EQ(list[1].handle, b);
  EXPECT_EQ(list[1].tokens, 2);
  EXPECT_EQ(list[1].num_turns, 1);
  EXPECT_THAT(list[1].turns, IsEmpty());
  EXPECT_EQ(list[1].idle, absl::Seconds(1));
  EXPECT_EQ(sessions_.List({}, 10, now_, &total).size(), 3u);
  // Others' are not in it, nor those that are gone.
  ASSERT_TRUE(sessions_.Delete({}, a, now_).ok());
  Make({"other"});
  const auto rest = sessions_.List({}, 10, now_, &total);
  EXPECT_EQ(total, 2);
  ASSERT_EQ(rest.size(), 2u);
  EXPECT_EQ(rest[0].handle, b);
  EXPECT_EQ(rest[1].handle, c);
}

}  // namespace
}  // namespace packrat
