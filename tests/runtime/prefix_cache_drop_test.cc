// What the prefix cache drops, and in which order.
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/prefix_cache.h"
#include "tests/runtime/prefix_cache_fixture.h"

namespace packrat {
namespace {

TEST_F(PrefixCacheTest, DropsWhatAWriterLeft) {
  Keep(Range(0, 20), 1);
  Keep(Range(0, 40), 2);
  Keep(Range(0, 60), 1);
  cache_->DropOf(1);
  EXPECT_EQ(Hit(Range(0, 100)), 40);
  EXPECT_EQ(cache_->num_snapshots(), 1);
  cache_->DropOf(2);
  ExpectNothingHeld();
}

TEST_F(PrefixCacheTest, TheLeastRecentlyUsedGoesFirst) {
  for (const int used : {0, 1}) {
    Start(1 << 20);
    Keep(Range(0, 40));
    Keep(Range(1000, 40));
    Keep(Range(2000, 20));
    cache_->DropOne();  // The short one: the clock moves on.
    EXPECT_EQ(cache_->num_snapshots(), 2);
    EXPECT_EQ(Hit(Range(1000 * used, 41)), 40);
    cache_->DropOne();
    EXPECT_EQ(Hit(Range(1000 * used, 41)), 40);
    EXPECT_EQ(Hit(Range(1000 * (1 - used), 41)), 0);
  }
}

// Of two that were used alike, the one that saves less for its bytes goes first; importance makes
// one dearer.
TEST_F(PrefixCacheTest, WhatSavesLittleGoesFirst) {
  Keep(Range(0, 400));
  Keep(Range(5000, 20));
  Keep(Range(0, 416));  // Saves 16 more than the one before it.
  EXPECT_TRUE(cache_->DropOne());
  EXPECT_EQ(Hit(Range(0, 417)), 400);
  EXPECT_TRUE(cache_->DropOne());
  EXPECT_EQ(Hit(Range(5000, 21)), 0);
  Keep(Range(5000, 20), 1, /*importance=*/1);
  EXPECT_TRUE(cache_->DropOne());
  EXPECT_EQ(Hit(Range(5000, 21)), 20);
  EXPECT_TRUE(cache_->DropOne());
  EXPECT_FALSE(cache_->DropOne());
  ExpectNothingHeld();
}

// A dear one outlives cheap ones that are newer, but not for ever; and so does an important one.
TEST_F(PrefixCacheTest, WhatIsUnusedAges) {
  const auto outlives = [&](int tokens, int importance) {
    Start(1 << 20);
    Keep(Range(0, tokens), 1, importance);
    const auto is_there = [&] {
      bool found = false;
      cache_->ForEachSnapshot(
          [&](const Snapshot& snapshot) { found |= snapshot.position == tokens; });
      return found;
    };
    int newer = 0;
    for (; is_there() && newer < 1000; ++newer) {
      Keep(Range(10000 + 100 * newer, 20));
      if (newer >= 4) cache_->DropOne();
    }
    return newer;
  };
  const int plain = outlives(24, 0), dear = outlives(400, 0), important = outlives(24, 1);
  EXPECT_GT(dear, 10);
  EXPECT_LT(dear, 1000);
  EXPECT_GT(important, 8 * plain);
  EXPECT_LT(important, 1000);
}

TEST_F(PrefixCacheTest, OfEqualsTheLeastRecentlyUsedGoesFirst) {
  const auto tails = [&] {
    std::set<int32_t> all;
    cache_->ForEachSnapshot([&](const Snapshot& snapshot) { all.insert(snapshot.tail); });
    return all;
  };
  std::vector<int32_t> tail_of;  // They are taken in turn.
  for (int i = 0; i < 5; ++i) {
    Keep(Range(1000 * i, 40));
    tail_of.push_back(*tails().rbegin());
  }
  EXPECT_EQ(Hit(Range(0, 41)), 40);
  EXPECT_EQ(Hit(Range(2000, 41)), 40);
  std::set<int32_t> left = tails();
  for (const int next : {1, 3, 4, 0, 2}) {
    EXPECT_TRUE(cache_->DropOne());
    left.erase(tail_of[next]);
    EXPECT_EQ(tails(), left) << next;
  }
}

// What an important text leaves behind goes before all others, even dear ones.
TEST_F(PrefixCacheTest, ImportancePassesOnToTheLongerText) {
  Keep(Range(0, 400), 1, 1);
  Keep(Range(0, 416), 2, 1);
  Keep(Range(5000, 20), 3, 0);
  cache_->DropOne();
  EXPECT_EQ(Hit(Range(0, 416)), 0);
  EXPECT_EQ(Hit(Range(5000, 21)), 20);
  cache_->DropOne();
  EXPECT_EQ(Hit(Range(5000, 21)), 0);
  EXPECT_EQ(Hit(Range(0, 417)), 416);
}

// It is worth all of its text, since the shorter ones of it go first.
TEST_F(PrefixCacheTest, WhatGoesFirstDoesNotLessenOthers) {
  Keep(Range(0, 400), 1, -1);
  Keep(Range(0, 416));
  Keep(Range(5000, 200));
  cache_->DropOne();
  cache_->DropOne();
  EXPECT_EQ(Hit(Range(0, 417)), 416);
  EXPECT_EQ(Hit(Range(5000, 201)), 0);
}

// Somebody began with what was to go first, for instance a fork: it is as others from then on.
TEST_F(PrefixCacheTest, WhatSomebodyBeginsWithDoesNotGoFirst) {
  Keep(Range(0, 200), 1, -1);
  Keep(Range(5000, 20));
  EXPECT_EQ(Hit(Range(0, 201)), 200);
  cache_->DropOne();
  EXPECT_EQ(Hit(Range(0, 201)), 200);
  EXPECT_EQ(Hit(Range(5000, 21)), 0);
}

// What is brought here in pieces, half of which have come, is no dearer than what is kept: it ages
// unless a piece comes now and then.
TEST_F(PrefixCacheTest, WhatComesInPiecesAges) {
  constexpr uint64_t kNumber = 7;
  constexpr int kTokens = 40;
  const std::string parts(SavedPartBytes(layout_, kTokens), 'x');
  const auto outlives = [&](bool goes_on) {
    Start(1 << 20);
    size_t at = parts.size() / 2;
    EXPECT_EQ(cache_->Write(kNumber, kTokens, /*dial=*/0, 0, parts.substr(0, at)),
              absl::OkStatus());
    int newer = 0;
    for (; newer < 500; ++newer) {
      Keep(Range(10000 + 100 * newer, 20));
      if (newer >= 4) cache_->DropOne();
      int coming = 0;
      cache_->ForEachSnapshot([&](const Snapshot& s) { coming += s.position == kTokens; });
      if (coming == 0) break;
      if (goes_on && newer % 5 == 0) {
        EXPECT_EQ(cache_->Write(kNumber, kTokens, /*dial=*/0, at, parts.substr(at, 1)),
                  absl::OkStatus());
        ++at;
      }
    }
    return newer;
  };
  const int still = outlives(false);
  EXPECT_GT(still, 10);
  EXPECT_LT(still, 500);
  EXPECT_EQ(cache_->num_snapshots(), 5);  // The others stay.
  const std::string byte(1, 'x');
  EXPECT_TRUE(absl::IsAborted(cache_->Write(kNumber, kTokens, 0, parts.size() / 2, byte)));
  EXPECT_EQ(outlives(true), 500);
  // Where nothing else is left it goes.
  while (cache_->num_snapshots() > 0) cache_->DropOne();
  cache_->DropOne();
  ExpectNothingHeld();
  EXPECT_FALSE(cache_->DropOne());
}

// As many conversations as there is room for stay, turn after turn, whatever each leaves behind.
TEST_F(PrefixCacheTest, EveryConversationKeepsItsLastState) {
  constexpr int kUsers = 40;
  for (int turn = 1; turn <= 10; ++turn) {
    for (int user = 0; user < kUsers; ++user) {
      const auto text = [&](int tokens) { return Range(1000 * user, tokens); };
      EXPECT_EQ(Hit(text(20 * turn)), 20 * (turn - 1)) << user;
      Keep(text(20 * turn - 2), 1, -1);  // The end of its prompt,
      Keep(text(20 * turn), 1, 1);       // and of the answer.
      while (cache_->num_snapshots() > kUsers) cache_->DropOne();
    }
  }
}

// Chats whose clients send all of the text in each turn, one after the other: a state of a prompt's
// end and one of the answer's.
TEST_F(PrefixCacheTest, EveryChatKeepsItsLastStates) {
  constexpr int kChats = 6;
  uint64_t writer = 0;
  for (int turn = 0; turn < 5; ++turn) {
    for (int chat = 0; chat < kChats; ++chat) {
      ++writer;
      const auto text = [&](int tokens) { return Range(1000 * (chat + 1), tokens); };
      EXPECT_EQ(Begin(text(60 * turn + 40)), 60 * turn) << chat;
      Keep(text(60 * turn + 40), writer);
      Keep(text(60 * turn + 60), writer);
      while (cache_->num_snapshots() > 2 * kChats) cache_->DropOne();
    }
  }
}

// Neither what several began with, nor where texts part, waits for no one.
TEST_F(PrefixCacheTest, WhatSeveralBeginWithStays) {
  for (const bool part : {false, true}) {
    Start(1 << 20);
    Keep(Range(0, 400), 1);
    EXPECT_EQ(Begin(Range(0, 410)), 400);
    if (part) {
      cache_->Remember("", Range(0, 400) + Range(7000, 3));
    } else {
      EXPECT_EQ(Begin(Range(0, 410)), 400);
    }
    Keep(Range(0, 410), 2);
    Keep(Range(5000, 20), 3);
    cache_->DropOne();
    EXPECT_EQ(Hit(Range(0, 405)), 400);
  }
}

// What one writer leaves on its way takes the place of what it left before, unless somebody has
// begun with that; and nobody's states, which all come from somewhere else, are not one writer's.
TEST_F(PrefixCacheTest, AWriterReplacesItsOwn) {
  Keep(Range(0, 100), 1, -1);
  Keep(Range(0, 116), 1, 1);
  Keep(Range(0, 132), 1, 1);
  EXPECT_EQ(Hit(Range(0, 132)), 100);
  EXPECT_EQ(cache_->num_snapshots(), 2);
  ASSERT_NE(cache_->Use(cache_->Find("", Range(0, 133)).node), nullptr);
  Keep(Range(0, 148), 1, 1);
  EXPECT_EQ(Hit(Range(0, 148)), 132);
  EXPECT_EQ(cache_->num_dropped(), 0);
  for (const uint64_t writer : {0, 7}) {
    Start(1 << 20);
    Keep(Range(0, 40), writer, 1);
    Keep(Range(0, 60), 0, 1);
    EXPECT_EQ(Hit(Range(0, 60)), 40);
  }
}

TEST_F(PrefixCacheTest, DropsWhatABadTextMayHaveBegunWith) {
  Keep(Range(0, 20), 1);
  Keep(Range(0, 40), 2);
  Keep(Range(0, 60), 3);
  Keep(Range(0, 30) + Range(500, 20), 4);
  Keep(Range(0, 40), 5, 0, "other");
  cache_->DropAlong("", Range(0, 50));
  EXPECT_EQ(Hit(Range(0, 60)), 0);
  EXPECT_EQ(Hit(Range(0, 61)), 60);
  EXPECT_EQ(Hit(Range(0, 30) + Range(500, 21)), 50);
  EXPECT_EQ(Hit(Range(0, 41), "other"), 40);
  cache_->DropAlong("", Range(0, 60));
  cache_->DropAlong("none", Range(0, 60));
  cache_->DropAlong("", {});
  EXPECT_EQ(Hit(Range(0, 61)), 0);
  EXPECT_EQ(cache_->num_snapshots(), 2);
}

TEST_F(PrefixCacheTest, ForgetsWholeSpaces) {
  const auto keep = [&](const std::string& space) {
    Keep(Range(0, 20), 1, 0, space);
    Keep(Range(0, 40), 1, 0, space);
    Keep(Range(0, 30) + Range(500, 20), 1, 0, space);
    cache_->Remember(space, Range(900, 5));
  };
  for (const char* space : {"a1", "b", "a2"}) keep(space);
  cache_->ForgetSpaces([](const std::string& space) { return space[0] == 'a'; });
  EXPECT_EQ(cache_->num_snapshots(), 3);
  EXPECT_EQ(cache_->num_tokens(), 65);
  EXPECT_EQ(cache_->num_nodes(), 5);
  EXPECT_EQ(cache_->num_dropped(), 0);  // It was not for room.
  EXPECT_EQ(cache_->Find("a1", Range(0, 50)).shared, 0);
  EXPECT_EQ(Hit(Range(0, 41), "b"), 40);
  keep("a1");
  cache_->ForgetSpaces([](const std::string&) { return true; });
  EXPECT_EQ(cache_->num_nodes(), 0);
  ExpectNothingHeld();
}

}  // namespace
}  // namespace packrat
