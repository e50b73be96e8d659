// A prefix cache over a pool of 400 short sequences, and texts for it.
#ifndef PACKRAT_TESTS_RUNTIME_PREFIX_CACHE_FIXTURE_H_
#define PACKRAT_TESTS_RUNTIME_PREFIX_CACHE_FIXTURE_H_

#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "models/host_model.h"
#include "models/state_layout.h"
#include "runtime/prefix_cache.h"

namespace packrat {

using Text = std::vector<int32_t>;

inline Text Range(int32_t first, int count) {
  Text text(count);
  std::iota(text.begin(), text.end(), first);
  return text;
}
inline Text operator+(Text a, const Text& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline ModelConfig CacheConfig() {
  ModelConfig config;
  config.mixers = {RatSpec{2, 1, 8, 16}, AttentionSpec{2, 1, 8, 0}, MesaSpec{2, 8, 4, 0.25f, true}};
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
            const std::string& space = "", bool unread = false, const TurnEnds& ends = {}) {
    PrefixCache::Node* node = cache_->Remember(space, text);
    if (node == nullptr) return false;
    if (PrefixCache::SnapshotAt(node).position > 0) {
      cache_->Join(node, writer, importance, ends);
      return false;
    }
    Snapshot snapshot = Make(text);
    cache_->Put(node, &snapshot, writer, importance, unread, ends);
    EXPECT_EQ(snapshot.position, 0);
    return true;
  }
  // A sequence begins with what there is of a prompt. Its tokens.
  int Begin(const Text& text) {
    const PrefixCache::Found found = cache_->Find("", text);
    return found.node == nullptr ? 0 : cache_->Use(found.node)->position;
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

  const StateLayout layout_{CacheConfig()};
  std::unique_ptr<StatePool> pool_;
  std::unique_ptr<PrefixCache> cache_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_PREFIX_CACHE_FIXTURE_H_
