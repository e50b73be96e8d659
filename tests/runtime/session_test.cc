#include "runtime/session.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "tests/runtime/session_fixture.h"

namespace packrat {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST_F(SessionTest, TurnsJoinTheText) {
  const std::string handle = Make();
  EXPECT_EQ(handle.size(), 22u);
  EXPECT_THAT(TextOf(handle), IsEmpty());
  ASSERT_TRUE(TakeTurn(handle, {1, 2}, {3}).ok());
  ASSERT_TRUE(TakeTurn(handle, {4}, {}).ok());  // The text ended at once.
  ASSERT_TRUE(TakeTurn(handle, {}, {5, 6}).ok());
  ASSERT_TRUE(TakeTurn(handle, {}, {}).ok());  // No turn: it brought nothing.
  EXPECT_THAT(TextOf(handle), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(TurnsOf(handle), ElementsAre(3, 4, 6));
  EXPECT_EQ(sessions_.Get({}, handle, now_)->num_turns, 3);
  EXPECT_EQ(sessions_.stats().tokens, 6);
}

TEST_F(SessionTest, ATurnThatIsNotKeptLeavesNoTrace) {
  const std::string handle = Make();
  ASSERT_TRUE(TakeTurn(handle, {1}, {2}).ok());
  {
    auto turn = sessions_.Begin({}, handle, now_);
    ASSERT_TRUE(turn.ok());
    EXPECT_THAT(turn->text(), ElementsAre(1, 2));
    ASSERT_TRUE(turn->Promise({3}, 10).ok());
    turn->Append({4, 5});
    EXPECT_EQ(turn->generated(), 2);
    EXPECT_EQ(sessions_.stats().tokens, 2 + 11);
    EXPECT_EQ(sessions_.stats().busy, 1);
  }
  EXPECT_THAT(TextOf(handle), ElementsAre(1, 2));
  EXPECT_EQ(sessions_.stats().tokens, 2);
  EXPECT_EQ(sessions_.stats().busy, 0);
  EXPECT_TRUE(TakeTurn(handle, {3}, {4}).ok());
}

TEST_F(SessionTest, WhatATurnDidNotUseIsFreeAgain) {
  const std::string handle = Make();
  auto turn = sessions_.Begin({}, handle, now_);
  ASSERT_TRUE(turn->Promise({1}, 99).ok());
  turn->Append({2});
  turn->Keep(now_);
  { const Sessions::Turn ended = *std::move(turn); }
  EXPECT_EQ(sessions_.stats().tokens, 2);
  EXPECT_TRUE(TakeTurn(handle, Tokens(98, 1), {}).ok());
}

TEST_F(SessionTest, OneCallAtATime) {
  const std::string handle = Make();
  ASSERT_TRUE(TakeTurn(handle, {1, 2}, {3}).ok());
  auto turn = sessions_.Begin({}, handle, now_);
  ASSERT_TRUE(turn->Promise({4}, 1).ok());
  for (const absl::Status& status :
       {sessions_.Begin({}, handle, now_).status(), sessions_.Rewind({}, handle, 1, now_).status(),
        sessions_.RewindTurns({}, handle, 0, now_).status(), sessions_.Delete({}, handle, now_)}) {
    EXPECT_TRUE(absl::IsAborted(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "session is busy")) << status;
  }
  // It may be looked at, and forked as it was before.
  EXPECT_TRUE(sessions_.Get({}, handle, now_)->busy);
  const auto fork = sessions_.Fork({}, handle, now_);
  ASSERT_TRUE(fork.ok()) << fork.status();
  EXPECT_FALSE(fork->busy);
  EXPECT_THAT(TextOf(fork->handle), ElementsAre(1, 2, 3));
  turn->Append({5});
  turn->Keep(now_);
  // Until it is over, with what a store is to have beside.
  const SessionInfo before = *sessions_.Get({}, handle, now_);
  EXPECT_THAT(TextOf(handle), ElementsAre(1, 2, 3));
  EXPECT_THAT(before.turns, ElementsAre(3));
  EXPECT_THAT(TextOf(sessions_.Fork({}, handle, now_)->handle), ElementsAre(1, 2, 3));
  Tokens text;
  const SessionInfo with = *sessions_.GetWithTurn({}, handle, now_, &text);
  EXPECT_THAT(text, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(with.turns, ElementsAre(3, 5));
  EXPECT_EQ(with.tokens, 5);
  EXPECT_EQ(with.num_turns, 2);
  EXPECT_EQ(with.past.now().revision, before.past.now().revision + 1);
  { const Sessions::Turn ended = *std::move(turn); }
  EXPECT_THAT(TextOf(handle), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(sessions_.Get({}, handle, now_)->past.now(), with.past.now());
  EXPECT_THAT(TextOf(fork->handle), ElementsAre(1, 2, 3));
  EXPECT_TRUE(sessions_.Delete({}, handle, now_).ok());
}

TEST_F(SessionTest, AForkGoesItsOwnWay) {
  const std::string one = Make();
  ASSERT_TRUE(TakeTurn(one, {1}, {2}).ok());
  const std::string other = sessions_.Fork({}, one, now_)->handle;
  EXPECT_NE(one, other);
  ASSERT_TRUE(TakeTurn(one, {3}, {4}).ok());
  ASSERT_TRUE(TakeTurn(other, {5}, {6}).ok());
  EXPECT_THAT(TextOf(one), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(TextOf(other), ElementsAre(1, 2, 5, 6));
  EXPECT_THAT(TurnsOf(other), ElementsAre(2, 4));
  EXPECT_TRUE(sessions_.Delete({}, one, now_).ok());
  EXPECT_THAT(TextOf(other), ElementsAre(1, 2, 5, 6));
  EXPECT_EQ(sessions_.stats().tokens, 4);
}

TEST_F(SessionTest, RewindingCutsTheTextAndItsTurns) {
  const std::string handle = Make();
  ASSERT_TRUE(TakeTurn(handle, {1, 2}, {3}).ok());
  ASSERT_TRUE(TakeTurn(handle, {4}, {5, 6}).ok());
  ASSERT_TRUE(TakeTurn(handle, {7}, {8}).ok());
  EXPECT_THAT(sessions_.RewindTurns({}, handle, 3, now_)->turns, ElementsAre(3, 6, 8));
  EXPECT_THAT(sessions_.RewindTurns({}, handle, 2, now_)->turns, ElementsAre(3, 6));
  // Into the middle of a turn: it ends there.
  EXPECT_THAT(sessions_.Rewind({}, handle, 4, now_)->turns, ElementsAre(3, 4));
  EXPECT_THAT(TextOf(handle), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(sessions_.stats().tokens, 4);
  EXPECT_THAT(sessions_.Rewind({}, handle, 3, now_)->turns, ElementsAre(3));
  ASSERT_TRUE(TakeTurn(handle, {9}, {}).ok());
  EXPECT_THAT(TextOf(handle), ElementsAre(1, 2, 3, 9));

  for (const auto& [status, message] :
       {std::make_pair(sessions_.Rewind({}, handle, 5, now_).status(), "tokens is 5; range [0, 4]"),
        std::make_pair(sessions_.Rewind({}, handle, -1, now_).status(),
                       "tokens is -1; range [0, 4]"),
        std::make_pair(sessions_.RewindTurns({}, handle, 3, now_).status(),
                       "turns is 3; range [0, 2]"),
        std::make_pair(sessions_.RewindTurns({}, handle, -1, now_).status(),
                       "turns is -1; range [0, 2]")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_EQ(status.message(), message);
  }
  EXPECT_THAT(sessions_.RewindTurns({}, handle, 0, now_)->turns, IsEmpty());
  EXPECT_THAT(TextOf(handle), IsEmpty());
  EXPECT_TRUE(sessions_.Rewind({}, handle, 0, now_).ok());
  EXPECT_EQ(sessions_.stats().tokens, 0);
}

// A turn that is kept leaves its dials, a fork has them too, and a rewind those of what is left.
TEST_F(SessionTest, DialsGoWithTheText) {
  const std::string handle = Make();
  const auto take_turn = [&](const TextDials& dials, bool keep) {
    auto turn = sessions_.Begin({}, handle, now_);
    ASSERT_TRUE(turn.ok()) << turn.status();
    ASSERT_TRUE(turn->Promise(Tokens(5, 1), 1, dials).ok());
    if (keep) turn->Keep(now_);
  };
  const auto dials_of = [&](const std::string& of) { return sessions_.Get({}, of, now_)->dials; };
  take_turn({1, {}}, true);
  const TextDials twice = {3, {{5, 1}, {10, 2}}};
  take_turn({2, {{5, 1}}}, true);
  take_turn(twice, false);
  EXPECT_EQ(dials_of(handle), (TextDials{2, {{5, 1}}}));
  take_turn(twice, true);
  EXPECT_EQ(dials_of(handle), twice);
  const std::string fork = sessions_.Fork({}, handle, now_)->handle;
  EXPECT_EQ(sessions_.Rewind({}, handle, 11, now_)->dials, twice);
  EXPECT_EQ(sessions_.Rewind({}, handle, 10, now_)->dials, (TextDials{2, {{5, 1}}}));
  EXPECT_EQ(sessions_.Rewind({}, handle, 3, now_)->dials, (TextDials{1, {}}));
  EXPECT_EQ(dials_of(fork), twice);
}

TEST_F(SessionTest, ASessionOfAnotherReplicaIsAdoptedUnlessThisOneCameFromIt) {
  const std::string handle = Make();
  const SessionVersion made = sessions_.Get({}, handle, now_)->past.now();
  EXPECT_EQ(TakeTurn(handle, {1, 2}, {3}), absl::OkStatus());
  EXPECT_EQ(sessions_.Get({}, handle, now_)->past.now().revision, 1);
  for (const SessionVersion& version : {made, sessions_.Get({}, handle, now_)->past.now()}) {
    ASSERT_TRUE(sessions_.Adopt({}, handle, version, {{9}, {1}}, now_).ok());
    EXPECT_THAT(TextOf(handle), ElementsAre(1, 2, 3));
  }
  // Whose number is the same, but not its change.
  ASSERT_TRUE(sessions_.Adopt({}, handle, {1, 5}, {{9}, {1}}, now_).ok());
  EXPECT_THAT(TextOf(handle), ElementsAre(9));
  ASSERT_TRUE(sessions_.Adopt({}, handle, {2, 5}, {{9, 8}, {2}, absl::Minutes(3), 5}, now_).ok());
  EXPECT_THAT(TextOf(handle), ElementsAre(9, 8));
  EXPECT_THAT(TurnsOf(handle), ElementsAre(2));
  EXPECT_EQ(sessions_.Get({}, handle, now_)->ttl, absl::Minutes(3));
  EXPECT_EQ(sessions_.Get({}, handle, now_)->origin, 5u);
  EXPECT_EQ(sessions_.stats().tokens, 2);
  ASSERT_TRUE(sessions_.Rewind({}, handle, 1, now_).ok());
  EXPECT_EQ(sessions_.Get({}, handle, now_)->past.now().revision, 3);

  // Under a handle that is not here; of the same owner only.
  EXPECT_EQ(sessions_.Delete({}, handle, now_), absl::OkStatus());
  ASSERT_TRUE(sessions_.Adopt({"a"}, handle, {7, 5}, {{4, 5}, {2}, absl::Hours(9)}, now_).ok());
  EXPECT_THAT(TextOf(handle, {"a"}), ElementsAre(4, 5));
  EXPECT_EQ(sessions_.Get({"a"}, handle, now_)->ttl, absl::Minutes(10));
  EXPECT_TRUE(absl::IsNotFound(sessions_.Adopt({"b"}, handle, {8, 5}, {{6}, {1}}, now_).status()));
  EXPECT_TRUE(
      absl::IsNotFound(sessions_.Adopt({"a"}, "no handle", {1, 5}, {{6}, {1}}, now_).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(
      sessions_.Adopt({"a"}, handle, {8, 5}, {Tokens(101), {101}}, now_).status()));
  const auto turn = sessions_.Begin({"a"}, handle, now_);
  EXPECT_TRUE(absl::IsAborted(sessions_.Adopt({"a"}, handle, {9, 5}, {{6}, {1}}, now_).status()));
  EXPECT_THAT(TextOf(handle, {"a"}), ElementsAre(4, 5));
  EXPECT_EQ(sessions_.stats().tokens, 2);
}

// Forks have their origin's states too, so that these go with the last of them.
TEST_F(SessionTest, AnOriginGoesWithItsLastSession) {
  std::vector<uint64_t> gone;
  sessions_.WatchOrigins([&](uint64_t origin) { gone.push_back(origin); });
  const auto restore = [&](uint64_t origin, absl::Duration ttl = {}) {
    SessionContent content;
    content.text = {1, 2};
    content.turns = {2};
    content.ttl = ttl;
    content.origin = origin;
    return sessions_.Restore({}, content, now_)->handle;
  };
  const std::string first = restore(7), other = restore(8), plain = restore(0);
  const std::string fork = sessions_.Fork({}, first, now_)->handle;
  EXPECT_EQ(sessions_.Delete({}, first, now_), absl::OkStatus());
  EXPECT_EQ(sessions_.Delete({}, plain, now_), absl::OkStatus());
  EXPECT_THAT(gone, IsEmpty());
  EXPECT_EQ(sessions_.Delete({}, fork, now_), absl::OkStatus());
  EXPECT_THAT(gone, ElementsAre(7));
  // By an end of its time, by a newer one of another replica, and by a turn that was lost.
  restore(9, absl::Minutes(1));
  now_ += absl::Minutes(1);
  sessions_.Expire(now_);
  EXPECT_THAT(gone, ElementsAre(7, 9));
  SessionContent newer;
  newer.text = {1, 2, 3};
  newer.turns = {3};
  newer.origin = 10;
  ASSERT_TRUE(sessions_.Adopt({}, other, {5, 5}, newer, now_).ok());
  EXPECT_THAT(gone, ElementsAre(7, 9, 8));
  ASSERT_TRUE(sessions_.Adopt({}, other, {6, 5}, newer, now_).ok());
  EXPECT_THAT(gone, ElementsAre(7, 9, 8));
  sessions_.Begin({}, other, now_)->Drop();
  EXPECT_THAT(gone, ElementsAre(7, 9, 8, 10));
  sessions_.WatchOrigins(nullptr);
  EXPECT_EQ(sessions_.Delete({}, restore(11), now_), absl::OkStatus());
}

TEST_F(SessionTest, WhatIsRestoredIsASessionOfItsOwn) {
  const auto restored = sessions_.Restore({}, {{1, 2, 3}, {2, 3}, absl::Minutes(3), 9}, now_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_THAT(TextOf(restored->handle), ElementsAre(1, 2, 3));
  EXPECT_THAT(TurnsOf(restored->handle), ElementsAre(2, 3));
  EXPECT_EQ(restored->ttl, absl::Minutes(3));
  EXPECT_EQ(restored->origin, 9u);
  EXPECT_EQ(sessions_.Fork({}, restored->handle, now_)->origin, 9u);
  EXPECT_EQ(sessions_.Begin({}, restored->handle, now_)->origin(), 9u);
  EXPECT_EQ(sessions_.Restore({}, {{}, {}, absl::Hours(1)}, now_)->ttl, absl::Minutes(10));
  EXPECT_TRUE(absl::IsResourceExhausted(sessions_.Restore({}, {Tokens(95), {95}}, now_).status()));
}

}  // namespace
}  // namespace packrat
