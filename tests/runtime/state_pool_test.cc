#include "runtime/state_pool.h"

#include <cstring>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/host_model.h"

namespace packrat {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Holder = StatePool::Holder;

ModelConfig Config(bool mesa) {
  ModelConfig config;
  config.mixers = {RatSpec{2, 1, 8, 16}, AttentionSpec{2, 2, 8, 40}, AttentionSpec{2, 1, 8, 0}};
  if (mesa) config.mixers.push_back(MesaSpec{2, 8, 4, 0.25f, true});
  return config;
}

int64_t Bytes(const StateLayout& layout, const PartCounts& counts) {
  int64_t bytes = counts.slots * layout.slot_bytes + counts.tails * layout.tail_bytes;
  for (size_t c = 0; c < counts.pages.size(); ++c) {
    bytes += counts.pages[c] * layout.page_classes[c].page_bytes;
  }
  return bytes;
}

TEST(PlanParts, GivesAllThatMaxRunningSequencesNeed) {
  const StateLayout layout(Config(true));
  StatePoolOptions options;
  options.max_running = 7;
  options.max_context = 1000;
  options.state_bytes = 7 * layout.SequenceBytes(1000);
  const auto parts = PlanParts(layout, options);
  ASSERT_TRUE(parts.ok());
  EXPECT_EQ(parts->slots, 7);
  EXPECT_EQ(parts->tails, 7);
  // 62 finished chunks; a window of 40 touches up to 4 blocks; 63 blocks.
  EXPECT_THAT(parts->pages, ElementsAre(7 * 62, 7 * 4, 7 * 63));
  options.state_bytes *= 10;  // Not more than needed.
  EXPECT_EQ(Bytes(layout, *PlanParts(layout, options)), 7 * layout.SequenceBytes(1000));
}

TEST(PlanParts, TailsThatTakeNothingAreAsManyAsPages) {
  ModelConfig config;
  config.mixers = {AttentionSpec{2, 1, 8, 0}};
  const StateLayout layout(config);
  ASSERT_EQ(layout.tail_bytes, 0u);
  StatePoolOptions options;
  options.max_running = 2;
  options.max_context = 160;
  options.state_bytes = 2 * layout.SequenceBytes(160);
  const auto parts = PlanParts(layout, options);
  ASSERT_TRUE(parts.ok());
  EXPECT_THAT(parts->pages, ElementsAre(20));
  EXPECT_EQ(parts->tails, 20);
}

TEST(PlanParts, NeverExceedsTheLimitAndAlwaysFitsOne) {
  for (bool mesa : {false, true}) {
    const StateLayout layout(Config(mesa));
    for (int max_running : {1, 3, 64, 1000}) {
      for (int context : {1, 17, 300, 5000}) {
        const int64_t one = layout.SequenceBytes(context);
        for (int64_t budget : {one, one + 1, 2 * one, 5 * one / 2, 40 * one, 2000 * one}) {
          StatePoolOptions options;
          options.max_running = max_running;
          options.max_context = context;
          options.state_bytes = budget;
          const auto parts = PlanParts(layout, options);
          ASSERT_TRUE(parts.ok()) << parts.status();
          EXPECT_LE(Bytes(layout, *parts), budget);
          EXPECT_GE(parts->tails, 1);
          EXPECT_LE(parts->tails, max_running);
          EXPECT_EQ(parts->slots, mesa ? parts->tails : 0);
          const PartCounts need = SequenceNeeds(layout, context);
          for (size_t c = 0; c < need.pages.size(); ++c) {
            EXPECT_GE(parts->pages[c], need.pages[c]);
          }
          // Whole sequences of the longest: as many as fit, but for the rounding of pages.
          if (budget == 40 * one && max_running >= 40) {
            EXPECT_GE(parts->tails, 40);
          }
        }
      }
    }
  }
}

// One longest text of each dial always fits, and beside these each dial has as many bytes: two of
// the three share one class.
TEST(PlanParts, DialsHaveTheSameShare) {
  RatPlusSpec spec{2, 8, {16, 40, 4}};
  spec.others = {RatPlusDial{64, 0, 0}, RatPlusDial{1, 0, 0}};
  spec.num_others = 2;
  ModelConfig config;
  config.mixers = {spec, spec};
  config.dials = {"16,40,4", "64,0,0", "1,0,0"};
  const StateLayout layout(config);
  StatePoolOptions options;
  options.max_running = 1000;
  options.max_context = 2000;
  const PartCounts one = NeedsOfAny(layout, 2000);
  const int64_t least = PoolBytes(layout, one);
  for (const int64_t budget : {least, least + 1, 2 * least, 10 * least, 100 * least}) {
    options.state_bytes = budget;
    const auto parts = PlanParts(layout, options);
    ASSERT_TRUE(parts.ok()) << parts.status();
    EXPECT_LE(static_cast<int64_t>(PoolBytes(layout, *parts)), budget);
    const auto more = [&](int c) {
      return static_cast<double>((parts->pages[c] - one.pages[c]) *
                                 layout.page_classes[c].page_bytes);
    };
    EXPECT_GE(parts->pages[0], one.pages[0]);
    EXPECT_GE(parts->pages[1], one.pages[1]);
    // But for the rounding of pages.
    EXPECT_NEAR(more(0), 2 * more(1), 2.0 * layout.page_classes[1].page_bytes);
  }
  options.state_bytes = least - 1;
  EXPECT_TRUE(absl::IsResourceExhausted(PlanParts(layout, options).status()));
}

TEST(PlanParts, RefusesWhatHoldsNotEvenOneSequence) {
  const StateLayout layout(Config(true));
  StatePoolOptions options;
  options.max_running = 2;
  options.max_context = 1000;
  options.state_bytes = layout.SequenceBytes(1000) - 1;
  const absl::Status status = StatePool::Create(layout, options, AllocateHostState).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("max_context (1000)"));
  EXPECT_THAT(message, HasSubstr(std::to_string(layout.SequenceBytes(1000)) + " bytes"));
}

class StatePoolTest : public ::testing::Test {
 protected:
  StatePoolTest() {
    options_.max_running = 3;
    options_.max_context = 100;
    options_.state_bytes = 3 * layout_.SequenceBytes(100);
    options_.poison_freed = true;
    pool_ = *StatePool::Create(layout_, options_, AllocateHostState);
  }
  PartCounts Free() {
    PartCounts free;
    pool_->CountAvailable(&free);
    return free;
  }

  StateLayout layout_{Config(true)};
  StatePoolOptions options_;
  std::unique_ptr<StatePool> pool_;
};

TEST_F(StatePoolTest, PartsAreDistinctAlignedAndWithinTheMemory) {
  std::set<std::byte*> addresses;
  const StateMemory& memory = pool_->memory();
  const auto take = [&](std::byte* base, size_t stride, int32_t part) {
    std::byte* address = base + part * stride;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(address) % 64, 0u);
    EXPECT_TRUE(addresses.insert(address).second);
    std::memset(address, 0x5A, stride);
  };
  for (int i = 0; i < 3; ++i) {
    take(memory.slots, layout_.slot_bytes, pool_->Take(kSlotParts));
    take(memory.tails, layout_.tail_bytes, pool_->Take(kTailParts));
  }
  for (size_t c = 0; c < layout_.page_classes.size(); ++c) {
    for (int i = 0; i < pool_->total().pages[c]; ++i) {
      take(memory.pages[c].base, layout_.page_classes[c].page_bytes,
           pool_->Take(kPageParts + static_cast<int>(c)));
    }
  }
  EXPECT_EQ(pool_->bytes(), 3 * layout_.SequenceBytes(100));
  EXPECT_EQ(Bytes(layout_, Free()), 0);
  EXPECT_EQ(pool_->CheckIntegrity(), absl::OkStatus());
}

TEST_F(StatePoolTest, SealedPartsLiveAsLongAsTheirReferences) {
  const int32_t slot = pool_->Take(kSlotParts);
  const int32_t page = pool_->Take(kPageParts + 1);
  pool_->Ref(kSlotParts, slot, Holder::kSequence);
  pool_->Ref(kPageParts + 1, page, Holder::kSequence);
  EXPECT_EQ(pool_->refs(kSlotParts, slot), 2);
  pool_->Unref(kSlotParts, slot, Holder::kSequence);
  pool_->Unref(kPageParts + 1, page, Holder::kSequence);
  EXPECT_EQ(Free().slots, 2);
  EXPECT_EQ(Free().pages[1], pool_->total().pages[1] - 1);
  EXPECT_EQ(pool_->CheckIntegrity(), absl::OkStatus());
  pool_->Unref(kSlotParts, slot, Holder::kSequence);
  pool_->Unref(kPageParts + 1, page, Holder::kSequence);
  EXPECT_EQ(Free().slots, 3);
  EXPECT_EQ(Free().pages[1], pool_->total().pages[1]);
}

TEST_F(StatePoolTest, WhatIsFreeIsPoisoned) {
  const int32_t tail = pool_->Take(kTailParts);
  std::byte* memory = pool_->memory().tails + tail * layout_.tail_bytes;
  const auto poisoned = [&] {
    for (size_t i = 0; i < layout_.tail_bytes; ++i) {
      if (memory[i] != std::byte{0xFF}) return false;
    }
    return true;
  };
  EXPECT_TRUE(poisoned());
  std::memset(memory, 0, layout_.tail_bytes);
  EXPECT_FALSE(poisoned());
  pool_->Unref(kTailParts, tail, Holder::kSequence);
  EXPECT_TRUE(poisoned());
}

// What only the cache refers to counts as available, and is given up where it is asked for.
TEST_F(StatePoolTest, WhatTheCacheHoldsCanBeReclaimed) {
  std::vector<int32_t> cached;
  for (int i = 0; i < 3; ++i) cached.push_back(pool_->Take(kSlotParts));
  EXPECT_EQ(pool_->available(kSlotParts), 0);
  for (int32_t slot : cached) pool_->GiveToCache(kSlotParts, slot);
  EXPECT_EQ(pool_->available(kSlotParts), 3);
  EXPECT_EQ(pool_->reclaimable(kSlotParts), 3);
  pool_->Ref(kSlotParts, cached[0], Holder::kSequence);  // A sequence begins with it.
  EXPECT_EQ(pool_->available(kSlotParts), 2);
  EXPECT_EQ(pool_->cache_refs(kSlotParts, cached[0]), 1);
  EXPECT_EQ(pool_->CheckIntegrity(), absl::OkStatus());

  int reclaimed = 0;
  pool_->SetReclaim([&] {
    if (reclaimed == 3) return false;
    pool_->Unref(kSlotParts, cached[reclaimed++], Holder::kCache);
    return true;
  });
  // The first that is given up is still in use.
  EXPECT_EQ(pool_->Take(kSlotParts), cached[1]);
  EXPECT_EQ(reclaimed, 2);
  EXPECT_EQ(pool_->available(kSlotParts), 1);
  pool_->Unref(kSlotParts, cached[0], Holder::kSequence);
  EXPECT_EQ(pool_->available(kSlotParts), 2);
  EXPECT_EQ(pool_->reclaimable(kSlotParts), 1);
  EXPECT_EQ(pool_->CheckIntegrity(), absl::OkStatus());
}

TEST_F(StatePoolTest, CopiesAreOfThePartAlone) {
  const int kind = kPageParts + 1;
  const int32_t page = pool_->Take(kind), next = pool_->Take(kind);
  const size_t bytes = layout_.page_classes[1].page_bytes;
  std::byte* const base = pool_->memory().pages[1].base;
  std::memset(base + page * bytes, 0x5A, bytes);
  std::memset(base + next * bytes, 0x66, bytes);
  const int32_t copy = pool_->Copy(kind, page);
  EXPECT_EQ(std::memcmp(base + copy * bytes, base + page * bytes, bytes), 0);
  EXPECT_EQ(base[next * bytes], std::byte{0x66});
  EXPECT_EQ(base[(next + 1) * bytes - 1], std::byte{0x66});
  EXPECT_EQ(pool_->refs(kind, copy), 1);
}

TEST_F(StatePoolTest, MoreForTheCache) {
  options_.cache_sequences = 2;
  options_.state_bytes = 5 * layout_.SequenceBytes(100);
  pool_ = *StatePool::Create(layout_, options_, AllocateHostState);
  EXPECT_EQ(pool_->total().slots, 5);
  EXPECT_EQ(pool_->total().tails, 5);
  EXPECT_EQ(pool_->bytes(), 5 * layout_.SequenceBytes(100));
}

// What is saved of a tail goes out of the process with the rows that its text did not write.
TEST_F(StatePoolTest, TailsAreBlankEvenWhereNothingIsPoisoned) {
  options_.poison_freed = false;
  pool_ = *StatePool::Create(layout_, options_, AllocateHostState);
  std::vector<std::byte> bytes(layout_.tail_bytes);
  const std::vector<std::byte> blank(layout_.tail_bytes, std::byte{0xFF});
  const std::vector<std::byte> mine(layout_.tail_bytes, std::byte{0x5A});
  for (int i = 0; i < 4; ++i) {
    const int32_t tail = pool_->Take(kTailParts);
    const StateBuffer::Piece piece = pool_->PieceOf(kTailParts, tail, 0);
    EXPECT_EQ(pool_->Read({&piece, 1}, bytes.data()), absl::OkStatus());
    EXPECT_EQ(bytes, blank);
    pool_->Write(kTailParts, tail, 0, mine.data());
    EXPECT_EQ(pool_->Read({&piece, 1}, bytes.data()), absl::OkStatus());
    EXPECT_EQ(bytes, mine);
    pool_->Unref(kTailParts, tail, StatePool::Holder::kSequence);
  }
}

using StatePoolDeathTest = StatePoolTest;

TEST_F(StatePoolDeathTest, BrokenBooksStopTheProcess) {
  const int32_t slot = pool_->Take(kSlotParts);
  pool_->Unref(kSlotParts, slot, Holder::kSequence);
  EXPECT_DEATH(pool_->Unref(kSlotParts, slot, Holder::kSequence), "freed twice");
  EXPECT_DEATH(pool_->Ref(kSlotParts, slot, Holder::kSequence), "free part");
  EXPECT_DEATH(pool_->Unref(kTailParts, 99, Holder::kSequence), "tail 99");
  for (int i = 0; i < 3; ++i) pool_->Take(kSlotParts);
  EXPECT_DEATH(pool_->Unref(kSlotParts, slot, Holder::kCache), "another holder");
  EXPECT_DEATH(pool_->Take(kSlotParts), "admitted without its parts");
}

}  // namespace
}  // namespace packrat
