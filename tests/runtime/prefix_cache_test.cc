// What the prefix cache finds: texts, states within them, and why there is none.
#include "runtime/prefix_cache.h"

#include <malloc.h>

#include <new>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/runtime/prefix_cache_fixture.h"
#include "tests/tools/allocations.h"

namespace packrat {
namespace {

TEST_F(PrefixCacheTest, FindsTheLongestProperPrefix) {
  EXPECT_EQ(Hit(Range(0, 50)), 0);
  EXPECT_TRUE(Keep(Range(0, 20)));
  EXPECT_TRUE(Keep(Range(0, 40)));
  EXPECT_FALSE(Keep(Range(0, 40)));  // There is one.
  EXPECT_EQ(Hit(Range(0, 19)), 0);
  EXPECT_EQ(Hit(Range(0, 20)), 0);  // The last token is computed in any case.
  EXPECT_EQ(Hit(Range(0, 21)), 20);
  EXPECT_EQ(Hit(Range(0, 40)), 20);
  EXPECT_EQ(Hit(Range(0, 41)), 40);
  EXPECT_EQ(Hit(Range(0, 30) + Range(100, 20)), 20);
  EXPECT_EQ(Hit(Range(1, 40)), 0);
}

TEST_F(PrefixCacheTest, ASnapshotWithinARememberedText) {
  cache_->Remember("", Range(0, 100));
  EXPECT_EQ(Hit(Range(0, 101)), 0);
  EXPECT_TRUE(Keep(Range(0, 33)));
  EXPECT_EQ(Hit(Range(0, 34)), 33);
  EXPECT_EQ(Hit(Range(0, 101)), 33);
  EXPECT_EQ(cache_->num_tokens(), 100);
}

TEST_F(PrefixCacheTest, ATextGoesOnFromItsPlace) {
  PrefixCache::Place place;
  EXPECT_EQ(PrefixCache::DepthOf(place), 0);
  cache_->Remember("", Range(0, 50), &place);
  EXPECT_EQ(PrefixCache::DepthOf(place), 50);
  // Others part from it before and behind.
  cache_->Remember("", Range(0, 20) + Range(500, 5));
  cache_->Remember("", Range(0, 60) + Range(600, 5));
  PrefixCache::Node* const end = cache_->Remember("", Range(50, 30), &place);
  EXPECT_EQ(end, cache_->Remember("", Range(0, 80)));
  EXPECT_EQ(PrefixCache::DepthOf(place), 80);
  EXPECT_EQ(cache_->num_tokens(), 90);
  EXPECT_EQ(cache_->Remember("", {}, &place), end);
  EXPECT_TRUE(Keep(Range(0, 80)));
  EXPECT_EQ(Hit(Range(0, 81)), 80);
}

TEST_F(PrefixCacheTest, APlaceThatIsForgottenIsNowhere) {
  Start(100);
  PrefixCache::Place place, beside;
  cache_->Remember("", Range(0, 50), &place);
  cache_->Remember("", Range(0, 50), &beside);
  EXPECT_EQ(cache_->Remember("", Range(50, 51), &place), nullptr);  // More than there is room for.
  EXPECT_EQ(PrefixCache::DepthOf(place), 50);
  cache_->Remember("", Range(900, 100));
  EXPECT_EQ(PrefixCache::DepthOf(place), 0);
  EXPECT_EQ(PrefixCache::DepthOf(beside), 0);
  cache_->Remember("", Range(0, 60), &place);
  EXPECT_EQ(PrefixCache::DepthOf(place), 60);
  EXPECT_EQ(Shared(Range(0, 100)), 60);
  cache_.reset();
  EXPECT_EQ(PrefixCache::DepthOf(place), 0);
}

TEST_F(PrefixCacheTest, ALongTextIsCutAnywhere) {
  const Text text = Range(0, 3000);
  cache_->Remember("", text);
  // From the front, from the back, and between.
  for (const int tokens : {100, 200, 1900, 1950, 2900, 150, 2999, 16, 1925}) {
    EXPECT_TRUE(Keep(Text(text.begin(), text.begin() + tokens))) << tokens;
  }
  EXPECT_EQ(cache_->num_tokens(), 3000);
  for (const int tokens : {16, 100, 150, 200, 1900, 1925, 1950, 2900, 2999}) {
    EXPECT_EQ(Hit(Text(text.begin(), text.begin() + tokens + 1)), tokens);
  }
}

TEST_F(PrefixCacheTest, TellsWhatIsShared) {
  EXPECT_EQ(Shared(Range(0, 100)), 0);
  cache_->Remember("", Range(0, 100));
  EXPECT_EQ(Shared(Range(0, 30) + Range(500, 5)), 30);
  EXPECT_EQ(Shared(Range(0, 100)), 100);
  EXPECT_EQ(Shared(Range(0, 200)), 100);
  EXPECT_EQ(Shared(Range(7, 100)), 0);
}

TEST_F(PrefixCacheTest, SaysWhyThereIsNone) {
  EXPECT_EQ(Miss(Range(0, 50)), CacheMiss::kFirstUse);
  cache_->Remember("", Range(0, 50));
  EXPECT_EQ(Miss(Range(0, 15) + Range(100, 15)), CacheMiss::kFirstUse);
  EXPECT_EQ(Miss(Range(0, 16) + Range(100, 15)), CacheMiss::kNoSnapshot);
  Keep(Range(0, 32));
  EXPECT_EQ(Miss(Range(0, 50)), CacheMiss::kNone);
  EXPECT_TRUE(cache_->DropOne());
  EXPECT_EQ(Miss(Range(0, 50)), CacheMiss::kEvicted);
  EXPECT_EQ(Miss(Range(0, 20)), CacheMiss::kNoSnapshot);
  EXPECT_EQ(cache_->num_dropped(), 1);
}

TEST_F(PrefixCacheTest, SpacesSeeNothingOfEachOther) {
  Keep(Range(0, 40), 1, 0, "a");
  EXPECT_EQ(Hit(Range(0, 50), "a"), 40);
  EXPECT_EQ(Hit(Range(0, 50), "b"), 0);
  EXPECT_EQ(Miss(Range(0, 50), "b"), CacheMiss::kFirstUse);
  EXPECT_TRUE(Keep(Range(0, 40), 1, 0, "b"));
  EXPECT_EQ(cache_->num_snapshots(), 2);
}

TEST_F(PrefixCacheTest, WhatIsUnreadIsNotFound) {
  Keep(Range(0, 20), 1);
  Keep(Range(0, 40), 1, 0, "", /*unread=*/true);
  Keep(Range(500, 20), 2, 0, "", /*unread=*/true);
  EXPECT_EQ(Hit(Range(0, 50)), 20);
  EXPECT_EQ(Miss(Range(500, 30)), CacheMiss::kNoSnapshot);
  cache_->Settle(1);
  EXPECT_EQ(Hit(Range(0, 50)), 40);
  EXPECT_EQ(Hit(Range(500, 30)), 0);
  cache_->DropOf(2);
  cache_->Settle(2);  // What is gone stays so.
  EXPECT_EQ(Miss(Range(500, 30)), CacheMiss::kNoSnapshot);
  // It gives way like others, though nobody has found it.
  Keep(Range(500, 20), 3, 0, "", /*unread=*/true);
  while (cache_->DropOne()) {
  }
  cache_->Settle(3);
  ExpectNothingHeld();
}

// Where a text found no memory, others can still be forgotten, from their ends.
TEST_F(PrefixCacheTest, ATextThatFoundNoMemoryLeavesOrder) {
  bool failed = true;
  int refused = 0;
  for (int n = 0; failed; ++n) {
    SCOPED_TRACE(n);
    Start(100);
    cache_->Remember("", Range(0, 50));
    cache_->Remember("", Range(0, 40) + Range(300, 10));
    const Text text = Range(0, 45) + Range(600, 10);
    FailAllocation(n);
    try {
      cache_->Remember("", text);
    } catch (const std::bad_alloc&) {
      ++refused;
    }
    failed = AllocationFailed();
    FailAllocation(-1);
    EXPECT_LE(cache_->num_tokens(), 70);
    cache_->Remember("", Range(900, 100));
    EXPECT_EQ(cache_->num_tokens(), 100);
    EXPECT_EQ(cache_->num_nodes(), 1);
  }
  EXPECT_GT(refused, 4);
}

TEST_F(PrefixCacheTest, ForgetsTheOldestTexts) {
  Start(100);
  EXPECT_EQ(cache_->Remember("", Range(0, 101)), nullptr);
  Keep(Range(0, 40));
  cache_->Remember("x", Range(0, 40));
  Hit(Range(0, 41));                     // Used again.
  cache_->Remember("", Range(500, 30));  // "x" has to go.
  EXPECT_EQ(cache_->num_tokens(), 70);
  EXPECT_EQ(Hit(Range(0, 41)), 40);
  EXPECT_EQ(cache_->Find("x", Range(0, 41)).shared, 0);
  cache_->Remember("", Range(900, 100));
  EXPECT_EQ(cache_->num_tokens(), 100);
  EXPECT_EQ(cache_->num_snapshots(), 0);
  ExpectNothingHeld();
}

TEST_F(PrefixCacheTest, NodesAreBoundedToo) {
  Start(6400);
  for (int i = 0; i < 1000; ++i) cache_->Remember("", {i});
  EXPECT_EQ(cache_->num_nodes(), 116);
  EXPECT_EQ(cache_->num_tokens(), 116);
  EXPECT_EQ(Shared({999, 5}), 1);
  EXPECT_EQ(Shared({5, 5}), 0);
  // One text with a branch at each of its tokens is left with none of them.
  const Text text = Range(5000, 500);
  cache_->Remember("", text);
  for (int i = 1; i < 500; ++i) {
    Text branch(text.begin(), text.begin() + i);
    branch.push_back(1);
    cache_->Remember("", branch);
    cache_->Remember("", text);
  }
  EXPECT_LE(cache_->num_nodes(), 502);
  EXPECT_EQ(Shared(text), 500);
}

// A text that is cut again and again takes no more memory than its tokens.
TEST_F(PrefixCacheTest, PartsOfATextTakeWhatTheyHold) {
  constexpr int kTokens = 3000;
  const Text text = Range(0, kTokens);
  cache_->Remember("", text);
  const size_t before = mallinfo2().uordblks;
  for (int tokens = kTokens - 1; tokens > 0; --tokens) {
    cache_->Remember("", Text(text.begin(), text.begin() + tokens));
  }
  EXPECT_EQ(cache_->num_tokens(), kTokens);
  EXPECT_LT(mallinfo2().uordblks - before, size_t{1000} * kTokens);
}

// Against a list of all texts: the longest kept proper prefix is found, as long as nothing had to
// go.
TEST_F(PrefixCacheTest, RandomTexts) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 30; ++round) {
    Start(round % 3 == 0 ? 400 : 1 << 20);
    const bool bounded = round % 3 == 0;
    std::set<Text> kept;
    std::vector<Text> texts;
    for (int step = 0; step < 300; ++step) {
      Text text;
      if (!texts.empty() && random() % 4 != 0) {
        text = texts[random() % texts.size()];
        text.resize(random() % (text.size() + 1));
      }
      const int more = 1 + static_cast<int>(random() % 20);
      for (int i = 0; i < more; ++i) text.push_back(static_cast<int32_t>(random() % 3));
      if (text.size() > 200) text.resize(200);
      texts.push_back(text);
      int longest = 0;
      for (const Text& other : kept) {
        if (other.size() < text.size() && std::equal(other.begin(), other.end(), text.begin())) {
          longest = std::max(longest, static_cast<int>(other.size()));
        }
      }
      if (bounded) {
        EXPECT_LE(Hit(text), longest);
      } else {
        EXPECT_EQ(Hit(text), longest);
      }
      if (text.size() >= 16 && random() % 3 == 0) {
        if (Keep(text)) kept.insert(text);
      } else if (random() % 2) {
        cache_->Remember("", text);
      }
      if (!bounded && random() % 50 == 0) {
        cache_->Clear();
        kept.clear();
        EXPECT_EQ(cache_->num_tokens(), 0);
        EXPECT_EQ(cache_->num_nodes(), 0);
      }
      ASSERT_EQ(pool_->CheckIntegrity(), absl::OkStatus());
      EXPECT_EQ(pool_->total().slots - pool_->available(kSlotParts), 0);  // All could be had.
      EXPECT_EQ(pool_->reclaimable(kSlotParts), cache_->num_snapshots());
    }
    cache_.reset();
    ExpectNothingHeld();
  }
}

}  // namespace
}  // namespace packrat
