#include "runtime/prefix_cache.h"

#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "models/host_model.h"
#include "models/state_layout.h"
#include "tests/tools/allocations.h"

namespace packrat {
namespace {

using Text = std::vector<int32_t>;

Text Range(int32_t first, int count) {
  Text text(count);
  std::iota(text.begin(), text.end(), first);
  return text;
}
Text operator+(Text a, const Text& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

ModelConfig Config() {
  ModelConfig config;
  config.layers = {RatSpec{2, 1, 8, 16}, AttentionSpec{2, 1, 8, 0}, MesaSpec{2, 8, 4, 0.25f, true}};
  return config;
}

class PrefixCacheTest : public ::testing::Test {
 protected:
  PrefixCacheTest() { Start(1 << 20); }
  void Start(int64_t max_tokens) {
    cache_.reset();
    StatePoolOptions options;
    options.max_running = 400;
    options.max_context = 420;
    options.state_bytes = 400 * static_cast<int64_t>(layout_.SequenceBytes(420));
    pool_ = *StatePool::Create(layout_, options, AllocateHostState);
    cache_ = std::make_unique<PrefixCache>(pool_.get(), max_tokens);
  }
  // The state after `text`, as a sequence that ends there leaves it.
  Snapshot Make(const Text& text) {
    SequenceState state;
    state.Prepare(pool_->layout(), SequenceNeeds(layout_, static_cast<int64_t>(text.size())));
    state.Take(pool_.get());
    Span span;
    state.StartSpan(static_cast<int>(text.size()), pool_.get(), &span);
    return state.HandOver(pool_.get());
  }
  bool Keep(const Text& text, uint64_t writer = 1, int importance = 0,
            const std::string& space = "", bool unread = false) {
    PrefixCache::Node* node = cache_->Remember(space, text);
    if (node == nullptr) return false;
    Snapshot snapshot = Make(text);
    cache_->Put(node, &snapshot, writer, importance, unread);
    EXPECT_EQ(snapshot.position, 0);
    return true;
  }
  // Tokens of the snapshot that a prompt begins with; 0: none.
  int Hit(const Text& text, const std::string& space = "") {
    const PrefixCache::Found found = cache_->Find(space, text);
    return found.node == nullptr ? 0 : PrefixCache::SnapshotAt(found.node).position;
  }
  CacheMiss Miss(const Text& text, const std::string& space = "") {
    return cache_->Find(space, text).miss;
  }
  int Shared(const Text& text) { return cache_->Find("", text).shared; }
  void ExpectNothingHeld() {
    for (int kind = 0; kind < pool_->kinds(); ++kind) {
      EXPECT_EQ(pool_->available(kind), pool_->total()[kind]);
      EXPECT_EQ(pool_->reclaimable(kind), 0);
    }
  }

  const StateLayout layout_{Config()};
  std::unique_ptr<StatePool> pool_;
  std::unique_ptr<PrefixCache> cache_;
};

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
  Keep(Range(0, 416), 1, 1);
  Keep(Range(5000, 20), 1, 0);
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

// A state that has moved is found in its place, and its writer's fault follows it there.
TEST_F(PrefixCacheTest, WhatHasMovedIsFoundAndDropped) {
  const StateOwner owner = {"fingerprint", "numerics", layout_, /*vocab_size=*/1 << 20,
                            /*max_context=*/420};
  const std::string folder = ::testing::TempDir() + "prefix_cache_states";
  for (const bool on_disk : {false, true}) {
    Start(1 << 20);
    StateTierOptions options;
    options.memory_bytes = 20 * static_cast<int64_t>(layout_.SequenceBytes(420));
    options.disk_bytes = 10 * options.memory_bytes;
    if (on_disk) options.folder = folder;
    const auto tiers = *StateTiers::Open(options, owner, [] {});
    cache_ = std::make_unique<PrefixCache>(pool_.get(), 1 << 20, tiers.get());
    Keep(Range(0, 40), 1, 1);
    Keep(Range(1000, 40), 2, 1);
    while (cache_->DropOne()) {
    }
    EXPECT_EQ(cache_->num_snapshots(), 0);
    EXPECT_EQ(cache_->num_dropped(), 0);
    ExpectNothingHeld();
    EXPECT_EQ(tiers->CheckIntegrity(cache_->Moved()), absl::OkStatus());
    PrefixCache::Found found = cache_->Find("", Range(0, 50));
    ASSERT_NE(found.node, nullptr);
    EXPECT_EQ(found.on_disk, 0u);
    const absl::StatusOr<SavedState> bytes = cache_->Read(found.node);
    ASSERT_TRUE(bytes.ok());
    EXPECT_EQ(bytes->tokens, Range(0, 40));
    EXPECT_EQ(cache_->Find("x", Range(0, 50)).node, nullptr);
    if (on_disk) {  // What does not fit into half of the memory.
      for (int i = 0; i < 60; ++i) Keep(Range(5000 + 500 * i, 400), 3, 1);
      while (cache_->DropOne()) tiers->WaitForThreads();
      found = cache_->Find("", Range(0, 50));
      ASSERT_EQ(found.node, nullptr);
      ASSERT_NE(found.on_disk, 0u);
      tiers->Fetch(found.on_disk);
      tiers->WaitForThreads();
      found = cache_->Find("", Range(0, 50));
      ASSERT_NE(found.node, nullptr);
    }
    const Snapshot* snapshot = cache_->Use(found.node);
    ASSERT_NE(snapshot, nullptr);
    EXPECT_EQ(snapshot->position, 40);
    EXPECT_EQ(Hit(Range(0, 50)), 40);
    EXPECT_EQ(cache_->Read(found.node)->parts, bytes->parts);
    cache_->DropOne();  // It moves again.
    cache_->DropOf(1);
    EXPECT_EQ(Miss(Range(0, 50)), CacheMiss::kEvicted);
    EXPECT_EQ(tiers->CheckIntegrity(cache_->Moved()), absl::OkStatus());
    cache_->DropOf(2);
    cache_->DropOf(3);
    tiers->WaitForThreads();
    EXPECT_EQ(tiers->stats().memory.states + tiers->stats().disk.states, 0);
    ExpectNothingHeld();
    cache_.reset();
  }
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
