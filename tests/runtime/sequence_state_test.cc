// What a sequence shares with snapshots and what it copies, in bytes.
#include "runtime/sequence_state.h"

#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "models/host_model.h"

namespace packrat {
namespace {

// Counts what is copied inside of it.
class CountingState : public StateBuffer {
 public:
  CountingState(std::unique_ptr<StateBuffer> memory, size_t* copied)
      : memory_(std::move(memory)), copied_(copied) {}
  std::byte* data() const override { return memory_->data(); }
  size_t size() const override { return memory_->size(); }
  void Fill(size_t offset, size_t bytes, unsigned char value) override {
    memory_->Fill(offset, bytes, value);
  }
  void Copy(size_t from, size_t to, size_t bytes) override {
    memory_->Copy(from, to, bytes);
    *copied_ += bytes;
  }
  void Write(size_t to, const std::byte* from, size_t bytes) override {
    memory_->Write(to, from, bytes);
  }
  absl::Status Read(absl::Span<const Piece> pieces, std::byte* to) override {
    return memory_->Read(pieces, to);
  }

 private:
  const std::unique_ptr<StateBuffer> memory_;
  size_t* const copied_;
};

enum Pages { kRat, kFull, kWindow };

ModelConfig Config(bool window) {
  ModelConfig config;
  config.mixers = {RatSpec{2, 1, 8, 16}, AttentionSpec{2, 1, 8, 0}, MesaSpec{2, 8, 4, 0.25f, true}};
  if (window) config.mixers.push_back(AttentionSpec{2, 1, 8, 40});
  return config;
}

class SequenceStateTest : public ::testing::TestWithParam<bool> {
 protected:
  static constexpr int kLongest = 200;
  void SetUp() override {
    StatePoolOptions options;
    options.max_running = 4;
    options.max_context = kLongest;
    options.state_bytes = 4 * static_cast<int64_t>(layout_.SequenceBytes(kLongest));
    pool_ = *StatePool::Create(
        layout_, options, [&](size_t bytes) -> absl::StatusOr<std::unique_ptr<StateBuffer>> {
          return std::make_unique<CountingState>(*AllocateHostState(bytes), &copied_);
        });
  }
  void Prepare(SequenceState* state) { state->Prepare(layout_, SequenceNeeds(layout_, kLongest)); }
  // At the end of a text of so many tokens.
  std::unique_ptr<SequenceState> At(int tokens) {
    auto state = std::make_unique<SequenceState>();
    Prepare(state.get());
    state->Take(pool_.get());
    Advance(state.get(), tokens);
    return state;
  }
  Span Advance(SequenceState* state, int tokens) {
    Span span;
    state->StartSpan(tokens, pool_.get(), &span);
    return span;
  }
  std::unique_ptr<SequenceState> Resume(const Snapshot& snapshot, bool share_slot) {
    auto state = std::make_unique<SequenceState>();
    Prepare(state.get());
    state->Resume(snapshot, pool_.get());
    EXPECT_TRUE(state->FitsBesideSnapshot(*pool_));
    copied_ = 0;
    state->Take(pool_.get(), share_slot);
    return state;
  }
  // What is written to after a text of so many tokens, but for the slot.
  size_t OpenBytes(int tokens) const {
    size_t bytes = layout_.tail_bytes;
    for (const PageClass& c : layout_.page_classes) {
      const PagesInUse use(c, tokens);
      bytes += (use.end - use.unfinished) * c.page_bytes;
    }
    return bytes;
  }
  int Held(int kind) const { return pool_->total()[kind] - pool_->free(kind); }
  void ExpectAllFree() {
    for (int kind = 0; kind < pool_->kinds(); ++kind) EXPECT_EQ(Held(kind), 0) << kind;
    EXPECT_EQ(pool_->CheckIntegrity(), absl::OkStatus());
  }

  const StateLayout layout_{Config(GetParam())};
  std::unique_ptr<StatePool> pool_;
  size_t copied_ = 0;
};

TEST_P(SequenceStateTest, WhatASnapshotCopiesDoesNotGrowWithTheText) {
  for (const int tokens : {48, 64, 57, 160, 169}) {
    auto state = At(tokens);
    copied_ = 0;
    Snapshot snapshot = state->Snap(/*share_slot=*/true, pool_.get());
    EXPECT_EQ(copied_, OpenBytes(tokens)) << tokens;
    copied_ = 0;
    Snapshot other = state->Snap(/*share_slot=*/true, pool_.get());
    EXPECT_EQ(copied_, OpenBytes(tokens)) << tokens;
    EXPECT_EQ(other.slot, snapshot.slot);
    snapshot.Release(pool_.get());
    other.Release(pool_.get());
    state->Release(pool_.get());
    state = At(tokens);
    copied_ = 0;
    snapshot = state->Snap(/*share_slot=*/false, pool_.get());
    EXPECT_EQ(copied_, OpenBytes(tokens) + layout_.slot_bytes) << tokens;
    snapshot.Release(pool_.get());
    state->Release(pool_.get());
    ExpectAllFree();
  }
}

TEST_P(SequenceStateTest, AForkAtABlocksEndCopiesTheTailAndWindows) {
  auto state = At(64);
  copied_ = 0;
  Snapshot snapshot = state->HandOver(pool_.get());
  EXPECT_EQ(copied_, 0);
  auto fork = Resume(snapshot, /*share_slot=*/true);
  size_t windows = 0;
  if (GetParam()) windows = 3 * layout_.page_classes[kWindow].page_bytes;  // From 25 on.
  EXPECT_EQ(copied_, layout_.tail_bytes + windows);
  EXPECT_EQ(copied_, OpenBytes(64));
  auto second = Resume(snapshot, /*share_slot=*/false);
  EXPECT_EQ(copied_, OpenBytes(64) + layout_.slot_bytes);
  fork->Release(pool_.get());
  second->Release(pool_.get());
  snapshot.Release(pool_.get());
  ExpectAllFree();
}

// It reads the snapshot's slot until it has written its own, whenever that is.
TEST_P(SequenceStateTest, ASharedSlotIsReadUntilTheBlockEnds) {
  auto state = At(70);
  Snapshot snapshot = state->HandOver(pool_.get());
  auto fork = Resume(snapshot, /*share_slot=*/true);
  Span span = Advance(fork.get(), 9);
  EXPECT_EQ(span.position, 70);
  EXPECT_EQ(span.slot_in, snapshot.slot);
  EXPECT_NE(span.slot_out, snapshot.slot);
  EXPECT_EQ(Held(kSlotParts), 2);
  EXPECT_EQ(pool_->reclaimable(kSlotParts), 0);
  const int32_t own = span.slot_out;
  span = Advance(fork.get(), 1);  // It ends the block.
  EXPECT_EQ(span.slot_in, snapshot.slot);
  EXPECT_EQ(span.slot_out, own);
  span = Advance(fork.get(), 1);
  EXPECT_EQ(span.slot_in, own);
  EXPECT_EQ(span.slot_out, own);
  EXPECT_EQ(pool_->reclaimable(kSlotParts), 1);  // The snapshot's is the cache's alone again.
  snapshot.Release(pool_.get());
  EXPECT_EQ(Held(kSlotParts), 1);
  fork->Release(pool_.get());
  ExpectAllFree();
}

// Who is left alone with a slot writes to it: that of a new one would be in use for a block.
TEST_P(SequenceStateTest, ASlotOfItsOwnIsNotLeft) {
  auto state = At(70);
  Snapshot snapshot = state->HandOver(pool_.get());
  SequenceState heir;
  Prepare(&heir);
  heir.Resume(snapshot, pool_.get());
  const int32_t slot = snapshot.slot;
  snapshot.Release(pool_.get());
  heir.Take(pool_.get(), /*share_slot=*/true);
  const Span span = Advance(&heir, 1);
  EXPECT_EQ(span.slot_in, slot);
  EXPECT_EQ(span.slot_out, slot);
  EXPECT_EQ(Held(kSlotParts), 1);
  heir.Release(pool_.get());
  ExpectAllFree();
}

// Before it has ended a block it is snapped, handed over and released with what it reads.
TEST_P(SequenceStateTest, ASharedSlotIsPassedOn) {
  for (const bool hand_over : {false, true}) {
    auto state = At(70);
    Snapshot snapshot = state->HandOver(pool_.get());
    auto fork = Resume(snapshot, /*share_slot=*/true);
    Advance(fork.get(), 3);
    Snapshot next =
        hand_over ? fork->HandOver(pool_.get()) : fork->Snap(/*share_slot=*/false, pool_.get());
    EXPECT_EQ(next.position, 73);
    EXPECT_EQ(next.slot, snapshot.slot);
    if (!hand_over) {
      Advance(fork.get(), 7);
      Snapshot last = fork->HandOver(pool_.get());
      EXPECT_NE(last.slot, snapshot.slot);
      last.Release(pool_.get());
    }
    next.Release(pool_.get());
    snapshot.Release(pool_.get());
    ExpectAllFree();
  }
}

// Finished pages are the same for all, open ones everybody's own.
TEST_P(SequenceStateTest, PagesAreSharedOnceTheyAreFinished) {
  auto state = At(70);
  Snapshot snapshot = state->Snap(/*share_slot=*/false, pool_.get());
  auto fork = Resume(snapshot, /*share_slot=*/false);
  const Span one = Advance(state.get(), 1), other = Advance(fork.get(), 1);
  const std::vector<int32_t> full = pool_->runs(kPageParts + kFull).PagesTo(snapshot.runs[kFull]);
  ASSERT_EQ(full.size(), 4u);
  for (int b = 0; b < 4; ++b) {
    EXPECT_EQ(one.pages[kRat].pages[b], other.pages[kRat].pages[b]);
    EXPECT_EQ(one.pages[kFull].pages[b], other.pages[kFull].pages[b]);
    EXPECT_EQ(one.pages[kFull].pages[b], full[b]);
  }
  EXPECT_NE(one.pages[kFull].pages[4], other.pages[kFull].pages[4]);
  EXPECT_NE(one.pages[kFull].pages[4], snapshot.pages[kFull][0]);
  EXPECT_NE(one.tail, other.tail);
  EXPECT_NE(one.tail, snapshot.tail);
  if (GetParam()) {
    for (int b = 0; b < 4; ++b) {
      EXPECT_NE(one.pages[kWindow].pages[b], other.pages[kWindow].pages[b]);
    }
  }
  state->Release(pool_.get());
  fork->Release(pool_.get());
  snapshot.Release(pool_.get());
  ExpectAllFree();
}

// Where nothing else is left, whoever begins with a snapshot takes its parts over.
TEST_P(SequenceStateTest, TellsWhetherItFitsBesideItsSnapshot) {
  for (const int kind : {kSlotParts, kTailParts, kPageParts + kFull}) {
    auto state = At(70);
    Snapshot snapshot = state->HandOver(pool_.get());
    // What remains is taken, but for the pages that it needs to its end.
    const int more = kind < kPageParts ? 0 : SequenceNeeds(layout_, kLongest).pages[kFull] - 5;
    std::vector<int32_t> taken;
    while (pool_->free(kind) > more) taken.push_back(pool_->Take(kind));
    SequenceState fork;
    Prepare(&fork);
    fork.Resume(snapshot, pool_.get());
    EXPECT_FALSE(fork.FitsBesideSnapshot(*pool_)) << kind;
    snapshot.Release(pool_.get());
    EXPECT_TRUE(fork.FitsBesideSnapshot(*pool_)) << kind;
    copied_ = 0;
    fork.Take(pool_.get());
    EXPECT_EQ(copied_, 0u);
    EXPECT_EQ(Advance(&fork, 1).position, 70);
    fork.Release(pool_.get());
    for (int32_t part : taken) pool_->Unref(kind, part, StatePool::Holder::kSequence);
    ExpectAllFree();
  }
}

TEST_P(SequenceStateTest, TellsWhetherASnapshotFits) {
  auto state = At(70);
  for (const int kind : {kSlotParts, kTailParts, kPageParts + kFull}) {
    EXPECT_TRUE(state->CanSnap(*pool_, /*free=*/true));
    std::vector<int32_t> taken;
    while (pool_->available(kind) > 0) taken.push_back(pool_->Take(kind));
    EXPECT_FALSE(state->CanSnap(*pool_, /*free=*/true)) << kind;
    EXPECT_FALSE(state->CanSnap(*pool_, /*free=*/false)) << kind;
    pool_->GiveToCache(kind, taken.back());  // Which can give it up.
    EXPECT_FALSE(state->CanSnap(*pool_, /*free=*/true)) << kind;
    EXPECT_TRUE(state->CanSnap(*pool_, /*free=*/false)) << kind;
    pool_->Unref(kind, taken.back(), StatePool::Holder::kCache);
    taken.pop_back();
    for (int32_t part : taken) pool_->Unref(kind, part, StatePool::Holder::kSequence);
  }
  state->Release(pool_.get());
  ExpectAllFree();
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutWindows, SequenceStateTest, ::testing::Bool());

TEST(Snapshot, BytesBeyondAShorterOne) {
  const StateLayout layout(Config(true));
  const auto bytes = [&](int rat, int full, int window) {
    return static_cast<int64_t>(layout.slot_bytes + layout.tail_bytes +
                                rat * layout.page_classes[kRat].page_bytes +
                                full * layout.page_classes[kFull].page_bytes +
                                window * layout.page_classes[kWindow].page_bytes);
  };
  EXPECT_EQ(Snapshot::Bytes(layout, 100, 0), bytes(6, 7, 4));
  EXPECT_EQ(Snapshot::Bytes(layout, 100, 64), bytes(2, 3, 4));
  EXPECT_EQ(Snapshot::Bytes(layout, 100, 70), bytes(2, 3, 4));  // Its fifth page is its own.
  EXPECT_EQ(Snapshot::Bytes(layout, 16, 0), bytes(1, 1, 1));
}

TEST(PagesInUse, OfAWindow) {
  const StateLayout layout(Config(true));
  const PageClass& window = layout.page_classes[kWindow];
  // The next token, at 80, sees 41 to 80.
  EXPECT_EQ(PagesInUse(window, 80).first, 2);
  EXPECT_EQ(PagesInUse(window, 80).end, 5);
  // At 87 it sees 48 to 87.
  EXPECT_EQ(PagesInUse(window, 87).first, 3);
  EXPECT_EQ(PagesInUse(window, 86).first, 2);
  EXPECT_EQ(PagesInUse(window, 86).end, 6);
  EXPECT_EQ(PagesInUse(window, 20).first, 0);
}

}  // namespace
}  // namespace packrat
