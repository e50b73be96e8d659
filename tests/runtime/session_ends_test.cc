// Where sessions stand: who goes on from which end of a text.
#include <string>

#include "gtest/gtest.h"
#include "runtime/text_end.h"
#include "tests/runtime/session_fixture.h"

namespace packrat {
namespace {

class SessionEndsTest : public SessionTest {
 protected:
  SessionEndsTest() : SessionTest({8, 1000, absl::Minutes(10)}) {}
  SeenTextEnd EndOf(const std::string& handle) { return sessions_.Get({}, handle, now_)->end; }
};

TEST_F(SessionEndsTest, ATurnComesToAnEndOfItsOwn) {
  const std::string handle = Make();
  EXPECT_TRUE(IsSame(EndOf(handle), {}));
  ASSERT_TRUE(TakeTurn(handle, {1, 2}, {3}).ok());
  const SeenTextEnd first = EndOf(handle);
  EXPECT_EQ(first.use_count(), 1);
  SeenTextEnd to;
  {
    auto turn = sessions_.Begin({}, handle, now_);
    ASSERT_TRUE(turn->Promise({4}, 2).ok());
    EXPECT_TRUE(IsSame(turn->ends().from, first));
    to = turn->ends().to;
    EXPECT_FALSE(IsSame(to, first));
    EXPECT_FALSE(to.expired());  // What it leaves on its way is somebody's.
    EXPECT_TRUE(IsSame(EndOf(handle), first));
    turn->Append(Tokens{5});
    turn->Keep(now_);
  }
  EXPECT_TRUE(IsLeft(first));
  EXPECT_TRUE(IsSame(EndOf(handle), to));
  EXPECT_EQ(to.use_count(), 1);
  {
    auto turn = sessions_.Begin({}, handle, now_);  // And comes to nothing.
    ASSERT_TRUE(turn->Promise({4}, 2).ok());
    to = turn->ends().to;
  }
  EXPECT_TRUE(IsLeft(to));
  EXPECT_EQ(EndOf(handle).use_count(), 1);
}

TEST_F(SessionEndsTest, AForkStandsWhereItsSourceDoes) {
  const std::string source = Make();
  ASSERT_TRUE(TakeTurn(source, {1, 2}, {3}).ok());
  const SeenTextEnd end = EndOf(source);
  const std::string fork = sessions_.Fork({}, source, now_)->handle;
  EXPECT_TRUE(IsSame(EndOf(fork), end));
  EXPECT_EQ(end.use_count(), 2);
  {
    auto turn = sessions_.Begin({}, source, now_);
    ASSERT_TRUE(turn->Promise({4}, 2).ok());
    // As it was before that turn.
    const std::string other = sessions_.Fork({}, source, now_)->handle;
    EXPECT_EQ(end.use_count(), 3);
    turn->Keep(now_);
    EXPECT_EQ(end.use_count(), 3);  // It may yet be revoked.
    EXPECT_TRUE(IsSame(EndOf(other), end));
    ASSERT_TRUE(sessions_.Delete({}, other, now_).ok());
    EXPECT_EQ(end.use_count(), 2);
  }
  EXPECT_EQ(end.use_count(), 1);
  ASSERT_TRUE(sessions_.Rewind({}, fork, 3, now_).ok());  // All of it.
  EXPECT_EQ(end.use_count(), 1);
  ASSERT_TRUE(sessions_.Rewind({}, fork, 2, now_).ok());
  EXPECT_TRUE(IsLeft(end));
  EXPECT_TRUE(IsSame(EndOf(fork), {}));
  const SeenTextEnd last = EndOf(source);
  now_ += absl::Minutes(11);
  sessions_.Expire(now_);
  EXPECT_TRUE(IsLeft(last));
}

// A state that comes with it is its own.
TEST_F(SessionEndsTest, WhatComesFromElsewhereStandsAtItsEnd) {
  SessionContent content;
  content.text = {1, 2, 3};
  content.turns = {3};
  const auto restored = sessions_.Restore({}, content, now_);
  ASSERT_TRUE(restored.ok());
  EXPECT_EQ(restored->end.use_count(), 1);
  content.text = {1, 2, 3, 4};
  content.turns = {4};
  const auto adopted = sessions_.Adopt({}, restored->handle, {5, 5}, content, now_);
  ASSERT_TRUE(adopted.ok());
  EXPECT_TRUE(IsLeft(restored->end));
  EXPECT_EQ(adopted->end.use_count(), 1);
}

// Whoever is told that an origin has gone sees that nobody stands at its end either.
TEST_F(SessionEndsTest, AnEndIsLeftBeforeItsOriginIs) {
  SeenTextEnd end;
  int gone = 0;
  sessions_.WatchOrigins([&](uint64_t) {
    ++gone;
    EXPECT_TRUE(IsLeft(end));
  });
  SessionContent content;
  content.text = {1, 2, 3};
  content.turns = {3};
  content.origin = 7;
  const auto first = sessions_.Restore({}, content, now_);
  end = first->end;
  ASSERT_TRUE(sessions_.Delete({}, first->handle, now_).ok());
  EXPECT_EQ(gone, 1);
  content.origin = 8;
  const auto second = sessions_.Restore({}, content, now_);
  end = second->end;
  content.origin = 0;
  ASSERT_TRUE(sessions_.Replace({}, second->handle, {3, 5}, content, now_).ok());
  EXPECT_EQ(gone, 2);
}

}  // namespace
}  // namespace packrat
