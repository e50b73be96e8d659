// What the prefix cache drops, and in which order.
#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <tuple>
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

// The rule as prefix_cache.h states it, over a list of all that is kept.
class PlainRule {
 public:
  struct Kept {
    Text text;
    int32_t tail;  // Tells which it is.
    uint64_t writer;
    int importance;
    double priority = 0;
    uint64_t last_use = 0;
  };
  explicit PlainRule(const StateLayout& layout) : layout_(layout) {}

  void Remember(const Text& text) { texts_.push_back(text); }
  void Put(const Text& text, int32_t tail, uint64_t writer, int importance) {
    size_t parts = 0;  // Where another text has left this one last.
    for (const Text& other : texts_) {
      const auto shared =
          std::mismatch(text.begin(), text.end(), other.begin(), other.end()).first - text.begin();
      const auto at = static_cast<size_t>(shared);
      if (at < text.size() && at < other.size()) parts = std::max(parts, at);
    }
    for (Kept& other : kept_) {
      if (other.writer != writer && other.importance == 0 && uses_of_[other.text] <= 1 &&
          other.text.size() > parts && Begins(other.text, text)) {
        other.importance = -1;
      }
    }
    for (size_t i = kept_.size(); importance > 0 && i-- > 0;) {
      Kept& other = kept_[i];
      if (other.importance <= 0 || !Begins(other.text, text)) continue;
      other.importance = -1;
      if (other.writer == writer && uses_of_[other.text] == 0) {
        kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
    kept_.push_back({text, tail, writer, importance});
    Use(&kept_.back());
  }
  int Find(const Text& text) {
    Kept* const found = Longest(text, -1);
    if (found == nullptr) return 0;
    found->importance = std::max(found->importance, 0);
    Use(found);
    ++uses_of_[found->text];
    return static_cast<int>(found->text.size());
  }
  bool DropOne() {
    const auto least =
        std::min_element(kept_.begin(), kept_.end(), [](const Kept& a, const Kept& b) {
          return std::make_tuple(a.importance >= 0, a.priority, a.last_use) <
                 std::make_tuple(b.importance >= 0, b.priority, b.last_use);
        });
    if (least == kept_.end()) return false;
    if (least->importance >= 0) clock_ = std::max(clock_, least->priority);
    kept_.erase(least);
    return true;
  }
  std::set<int32_t> Tails() const {
    std::set<int32_t> tails;
    for (const Kept& kept : kept_) tails.insert(kept.tail);
    return tails;
  }

 private:
  static bool Begins(const Text& text, const Text& longer) {
    return text.size() < longer.size() && std::equal(text.begin(), text.end(), longer.begin());
  }
  // Of importance `least` or more.
  Kept* Longest(const Text& text, int least) {
    Kept* longest = nullptr;
    for (Kept& kept : kept_) {
      if (kept.importance < least || !Begins(kept.text, text)) continue;
      if (longest == nullptr || longest->text.size() < kept.text.size()) longest = &kept;
    }
    return longest;
  }
  void Use(Kept* kept) {
    const Kept* const above = Longest(kept->text, 0);
    const int begin = above == nullptr ? 0 : static_cast<int>(above->text.size());
    const int end = static_cast<int>(kept->text.size());
    const double worth = (end - begin) / static_cast<double>(Snapshot::Bytes(layout_, end, begin));
    kept->priority = clock_ + worth * (kept->importance > 0 ? kImportantWorth : 1);
    kept->last_use = ++uses_;
  }

  const StateLayout& layout_;
  std::vector<Kept> kept_;
  std::vector<Text> texts_;
  std::map<Text, int> uses_of_;
  double clock_ = 0;
  uint64_t uses_ = 0;
};

TEST_F(PrefixCacheTest, DropsWhatThePlainRuleDrops) {
  std::mt19937_64 random(5);
  int drops = 0;
  for (int round = 0; round < 40; ++round) {
    Start(1 << 20);
    PlainRule plain(layout_);
    std::vector<Text> texts = {{}};
    for (int step = 0; step < 300; ++step) {
      SCOPED_TRACE(::testing::Message() << "round " << round << ", step " << step);
      Text text = texts[random() % texts.size()];
      if (random() % 4 == 0) text.resize(random() % (text.size() + 1));
      for (int more = 1 + static_cast<int>(random() % 40); more > 0; --more) {
        text.push_back(static_cast<int32_t>(random() % 3));
      }
      if (text.size() > 200) continue;
      texts.push_back(text);
      switch (random() % 5) {
        case 0:
          EXPECT_EQ(Begin(text), plain.Find(text));
          break;
        case 1:
          ASSERT_EQ(cache_->DropOne(), plain.DropOne());
          ++drops;
          break;
        default: {
          PrefixCache::Node* const node = cache_->Remember("", text);
          plain.Remember(text);
          if (node == nullptr || text.size() < 16) break;
          Snapshot snapshot = Make(text);
          const uint64_t writer = 1 + random() % 9;
          const int importance = static_cast<int>(random() % 3) - 1;
          plain.Put(text, snapshot.tail, writer, importance);
          cache_->Put(node, &snapshot, writer, importance);
        }
      }
      std::set<int32_t> tails;
      cache_->ForEachSnapshot([&](const Snapshot& snapshot) { tails.insert(snapshot.tail); });
      ASSERT_EQ(tails, plain.Tails());
    }
    while (plain.DropOne()) {
      ASSERT_TRUE(cache_->DropOne());
      std::set<int32_t> tails;
      cache_->ForEachSnapshot([&](const Snapshot& snapshot) { tails.insert(snapshot.tail); });
      ASSERT_EQ(tails, plain.Tails());
    }
    EXPECT_FALSE(cache_->DropOne());
  }
  EXPECT_GT(drops, 1000);
}

// A state that has moved is found in its place, and its writer's fault follows it there.
TEST_F(PrefixCacheTest, WhatHasMovedIsFoundAndDropped) {
  const StateOwner owner = {{"fingerprint"},
                            "numerics",
                            layout_,
                            /*vocab_size=*/1 << 20,
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
      tiers->Fetch(found.on_disk, 0, 1);
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

}  // namespace
}  // namespace packrat
