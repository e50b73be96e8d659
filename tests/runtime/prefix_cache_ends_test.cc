// What the prefix cache keeps for sessions, their forks, and others that say the same.
#include <cstdint>
#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "runtime/prefix_cache.h"
#include "runtime/text_end.h"
#include "tests/runtime/prefix_cache_fixture.h"

namespace packrat {
namespace {

// Sessions that come to texts and go on from them.
class EndsTest : public PrefixCacheTest {
 protected:
  struct Session {
    HeldTextEnd end;
  };
  // A turn of a session, which may have forks, that comes to this text.
  void Turn(Session* session, const Text& text) {
    HeldTextEnd to = std::make_shared<const TextEnd>();
    Keep(text, ++writers_, 1, "", /*unread=*/false, {session->end, to});
    session->end = std::move(to);
  }
  // Whether the state at the end of a text outlives one of somebody else, which is worth less.
  bool IsImportant(const Text& text) {
    Keep(Range(50000 + 100 * ++others_, 20), ++writers_);
    const int64_t kept = Count(static_cast<int>(text.size()));
    cache_->DropOne();
    return Count(static_cast<int>(text.size())) == kept;
  }
  // States of so many tokens.
  int64_t Count(int tokens) {
    int64_t count = 0;
    cache_->ForEachSnapshot([&](const Snapshot& s) { count += s.position == tokens; });
    return count;
  }
  uint64_t writers_ = 0;
  int others_ = 0;
};

// Its turn is no reason to drop what the session that it was forked from goes on from.
TEST_F(EndsTest, WhatTheOtherOfAForkStandsAtStays) {
  for (const bool source_first : {false, true}) {
    Start(1 << 20);
    Session source;
    Turn(&source, Range(0, 100));
    Session fork = source;
    Turn(source_first ? &source : &fork, Range(0, 140));
    EXPECT_TRUE(IsImportant(Range(0, 100)));
    EXPECT_EQ(Hit(Range(0, 101)), 100);
    // Until that one has gone on as well.
    Turn(source_first ? &fork : &source, Range(0, 100) + Range(7000, 60));
    EXPECT_FALSE(IsImportant(Range(0, 100)));
    EXPECT_EQ(Hit(Range(0, 141)), 140);
    EXPECT_EQ(Hit(Range(0, 100) + Range(7000, 61)), 160);
  }
}

TEST_F(EndsTest, OfASessionThatHasGoneNothingStays) {
  Session source;
  Turn(&source, Range(0, 100));
  Session fork = source;
  source.end.reset();  // It is deleted, or rewound.
  Turn(&fork, Range(0, 140));
  EXPECT_FALSE(IsImportant(Range(0, 100)));
  Start(1 << 20);
  Session equal;
  Turn(&source, Range(0, 100));
  Turn(&equal, Range(0, 100));
  equal.end.reset();
  Turn(&source, Range(0, 140));
  EXPECT_FALSE(IsImportant(Range(0, 100)));
}

// Two that never heard of each other say the same.
TEST_F(EndsTest, EqualTextsOfTwoSessionsAreBoths) {
  Session one, other;
  Turn(&one, Range(0, 100));
  Turn(&other, Range(0, 100));
  EXPECT_EQ(cache_->num_snapshots(), 1);
  Turn(&one, Range(0, 140));
  EXPECT_TRUE(IsImportant(Range(0, 100)));
  Turn(&one, Range(0, 180));
  EXPECT_FALSE(IsImportant(Range(0, 140)));
  EXPECT_TRUE(IsImportant(Range(0, 100)));
  Turn(&other, Range(0, 140));
  EXPECT_FALSE(IsImportant(Range(0, 100)));
  EXPECT_EQ(Hit(Range(0, 141)), 140);
}

// Also where the first of them had gone on before the other came.
TEST_F(EndsTest, WhatOneHasLeftBehindAnotherMayComeTo) {
  Session one, other;
  Turn(&one, Range(0, 100));
  Turn(&one, Range(0, 140));
  Turn(&other, Range(0, 100));
  EXPECT_TRUE(IsImportant(Range(0, 100)));
  EXPECT_TRUE(IsImportant(Range(0, 140)));
}

// What had to give way and is computed by somebody without a session is still the session's.
TEST_F(EndsTest, WhoComputesItAgainDoesNotMatter) {
  Session session;
  Turn(&session, Range(0, 100));
  while (cache_->DropOne()) {
  }
  Keep(Range(0, 100), ++writers_, 0);
  Keep(Range(5000, 400), ++writers_, 0);  // Dear, and newer.
  cache_->DropOne();
  EXPECT_EQ(Count(100), 1);
  EXPECT_EQ(Count(400), 0);
}

// An answer's states on the way to its end are one after the other that of its session.
TEST_F(EndsTest, AnAnswerLeavesItsLastStateAlone) {
  Session session;
  Turn(&session, Range(0, 100));
  const HeldTextEnd to = std::make_shared<const TextEnd>();
  for (const int tokens : {164, 228, 250}) {
    Keep(Range(0, tokens), /*writer=*/99, 1, "", false, {session.end, to});
  }
  EXPECT_EQ(Count(100) + Count(164) + Count(228) + Count(250), 2);
  EXPECT_FALSE(IsImportant(Range(0, 100)));
  EXPECT_TRUE(IsImportant(Range(0, 250)));
}

}  // namespace
}  // namespace packrat
