// The prefix cache above memory and disk.
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "runtime/prefix_cache.h"
#include "tests/runtime/prefix_cache_fixture.h"

namespace packrat {
namespace {

// Host memory that counts how much is read out of it.
class CountingBuffer : public StateBuffer {
 public:
  CountingBuffer(std::unique_ptr<StateBuffer> host, size_t* read)
      : host_(std::move(host)), read_(read) {}
  std::byte* data() const override { return host_->data(); }
  size_t size() const override { return host_->size(); }
  void Fill(size_t offset, size_t bytes, unsigned char value) override {
    host_->Fill(offset, bytes, value);
  }
  void Copy(size_t from, size_t to, size_t bytes) override { host_->Copy(from, to, bytes); }
  void Write(size_t to, const std::byte* from, size_t bytes) override {
    host_->Write(to, from, bytes);
  }
  absl::Status Read(absl::Span<const Piece> pieces, std::byte* to) override {
    for (const Piece& piece : pieces) *read_ += piece.bytes;
    return host_->Read(pieces, to);
  }

 private:
  const std::unique_ptr<StateBuffer> host_;
  size_t* const read_;
};

// While the disk lags, what has no room below the pool is not copied out of it.
TEST_F(PrefixCacheTest, WhatHasNoRoomBelowIsNotRead) {
  size_t read = 0;
  cache_.reset();
  StatePoolOptions pool_options;
  pool_options.max_running = 40;
  pool_options.max_context = 420;
  pool_options.state_bytes = 40 * static_cast<int64_t>(layout_.SequenceBytes(420));
  pool_ = *StatePool::Create(layout_, pool_options,
                             [&](size_t bytes) -> absl::StatusOr<std::unique_ptr<StateBuffer>> {
                               auto host = AllocateHostState(bytes);
                               if (!host.ok()) return host.status();
                               return std::make_unique<CountingBuffer>(*std::move(host), &read);
                             });
  StateTierOptions options;
  options.folder = ::testing::TempDir() + "prefix_cache_slow_states";
  const StateOwner owner = {{"fingerprint"}, "numerics", layout_, 1 << 20, 420};
  const size_t one = SavedPartBytes(layout_, 400);
  options.memory_bytes = 4 * WholeBlocks(static_cast<int64_t>(one) + 4096);
  options.disk_bytes = 100 * options.memory_bytes;
  const auto tiers = *StateTiers::Open(options, owner, [] {});
  cache_ = std::make_unique<PrefixCache>(pool_.get(), 1 << 20, tiers.get());
  for (int i = 0; i < 20; ++i) Keep(Range(500 * i, 400), 1 + i, 1);
  // Nobody polls: so nothing of what is handed to the disk ever counts as written.
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(cache_->DropOne());
  const int64_t moved = tiers->stats().moved_to_memory;
  EXPECT_GT(moved, 1);
  EXPECT_LT(moved, 6);
  EXPECT_EQ(cache_->num_dropped(), 20 - moved);
  EXPECT_EQ(read, moved * one);
  // Once it has come after, there is room again.
  tiers->WaitForThreads();
  Keep(Range(20000, 400), 30, 1);
  ASSERT_TRUE(cache_->DropOne());
  EXPECT_EQ(tiers->stats().moved_to_memory, moved + 1);
  EXPECT_EQ(tiers->CheckIntegrity(cache_->Moved()), absl::OkStatus());
  cache_.reset();
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
