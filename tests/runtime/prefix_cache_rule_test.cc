// What the prefix cache drops, against its rule said plainly.
#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/prefix_cache.h"
#include "tests/runtime/prefix_cache_fixture.h"

namespace packrat {
namespace {

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
          if (PrefixCache::SnapshotAt(node).position > 0 || text.size() < 16) break;
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

}  // namespace
}  // namespace packrat
