// The prefix cache above memory and disk.
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "runtime/prefix_cache.h"
#include "tests/runtime/prefix_cache_fixture.h"

namespace packrat {
namespace {

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
    EXPECT_EQ(found.on_disk, nullptr);
    const absl::StatusOr<SavedState> bytes = cache_->Read(found.node);
    ASSERT_TRUE(bytes.ok());
    EXPECT_EQ(bytes->tokens, Range(0, 40));
    EXPECT_EQ(cache_->Find("x", Range(0, 50)).node, nullptr);
    if (on_disk) {  // What does not fit into half of the memory.
      for (int i = 0; i < 60; ++i) Keep(Range(5000 + 500 * i, 400), 3, 1);
      while (cache_->DropOne()) tiers->WaitForThreads();
      found = cache_->Find("", Range(0, 50));
      ASSERT_EQ(found.node, nullptr);
      ASSERT_NE(found.on_disk, nullptr);
      const uint64_t state = cache_->Fetch(found.on_disk, 0, 1);
      EXPECT_TRUE(cache_->IsFetching(state));
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
