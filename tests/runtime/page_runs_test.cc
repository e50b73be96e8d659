// Finished pages in runs: what they cost by the length of a text, and that their books are right,
// beside a model that looks at every page of everybody.
#include "runtime/page_runs.h"

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/host_model.h"
#include "runtime/reference_count.h"
#include "runtime/sequence_state.h"
#include "runtime/state_pool.h"
#include "runtime/state_transfer.h"
#include "tests/tools/allocations.h"

namespace packrat {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Holder = StatePool::Holder;

constexpr PartRefs kSequences = {1, 0}, kCaches = {1, 1};

std::vector<int32_t> Pages(int32_t first, int count) {
  std::vector<int32_t> pages(count);
  std::iota(pages.begin(), pages.end(), first);
  return pages;
}

int RunsTo(const PageRuns& runs, int32_t run) {
  int count = 0;
  for (; run >= 0; run = runs.run(run).before) ++count;
  return count;
}

TEST(PageRuns, ATextIsAllRunsToItsLast) {
  PageRuns runs;
  const int32_t first = runs.Append(-1, {7, 5}, kSequences);
  runs.Change(first, 1, 1);
  const int32_t left = runs.Append(first, {9}, kSequences);
  runs.Change(first, 1, 0);
  const int32_t right = runs.Append(first, {4, 3}, kSequences);
  EXPECT_THAT(runs.PagesTo(left), ElementsAre(7, 5, 9));
  EXPECT_THAT(runs.PagesTo(right), ElementsAre(7, 5, 4, 3));
  EXPECT_THAT(runs.PagesTo(-1), ElementsAre());
  EXPECT_EQ(runs.end(right), 4);
  EXPECT_EQ(runs.HeldByOne(right, /*cache=*/false), 2);
  std::vector<int32_t> free;
  const auto drop = [&](int32_t run, bool cache) {
    return runs.Drop(run, cache, [&](int32_t page) { free.push_back(page); });
  };
  EXPECT_EQ(drop(left, false), 0);
  EXPECT_THAT(free, ElementsAre(9));
  EXPECT_EQ(runs.Change(right, 0, 1), 4);  // It is the cache's, with what comes before.
  EXPECT_EQ(runs.HeldByOne(right, /*cache=*/true), 2);
  EXPECT_EQ(drop(first, true), 0);
  EXPECT_EQ(runs.HeldByOne(right, /*cache=*/true), 4);
  EXPECT_EQ(drop(right, true), -4);
  EXPECT_THAT(free, ElementsAre(9, 4, 3, 7, 5));
}

// A conversation of many short turns, each of which leaves its state in the place of the last
// one's.
TEST(PageRuns, AreJoinedWhereNobodyRefersToTheirEnd) {
  PageRuns runs;
  int32_t kept = -1;
  for (int turn = 0; turn < 10000; ++turn) {
    if (kept >= 0) runs.Change(kept, 1, 0);
    const int32_t next = runs.Append(kept, {turn}, kSequences);
    EXPECT_EQ(runs.Change(next, 0, 1), kept < 0 ? 1 : turn + 1);
    if (kept >= 0) runs.Drop(kept, /*cache=*/true, [](int32_t) { FAIL(); });
    kept = next;
  }
  EXPECT_LE(RunsTo(runs, kept), 22);
  EXPECT_EQ(runs.PagesTo(kept), Pages(0, 10000));
  EXPECT_LE(runs.size(), 23);
  std::vector<int32_t> free;
  EXPECT_EQ(runs.Drop(kept, /*cache=*/true, [&](int32_t page) { free.push_back(page); }), -10000);
  EXPECT_EQ(free.size(), 10000u);
}

TEST(PageRuns, WhoIsAloneWithItsLastRunMakesItLonger) {
  PageRuns runs;
  const int32_t run = runs.Append(-1, {1, 2}, kSequences);
  EXPECT_EQ(runs.Append(run, {3}, kSequences), run);
  EXPECT_THAT(runs.PagesTo(run), ElementsAre(1, 2, 3));
  EXPECT_EQ(runs.end(run), 3);
  runs.Change(run, 1, 1);
  EXPECT_NE(runs.Append(run, {4}, kSequences), run);
  EXPECT_THAT(runs.PagesTo(run), ElementsAre(1, 2, 3));
}

using PageRunsDeathTest = ::testing::Test;

TEST(PageRunsDeathTest, BrokenBooksStopTheProcess) {
  PageRuns runs;
  const int32_t run = runs.Append(-1, {1, 2}, kCaches);
  EXPECT_DEATH(runs.Change(run, -1, 0), "another holder");
  EXPECT_DEATH(runs.Drop(run, /*cache=*/false, [](int32_t) {}), "another holder");
  runs.Drop(run, /*cache=*/true, [](int32_t) {});
  EXPECT_DEATH(runs.Change(run, 1, 1), "no run");
}

ModelConfig Config() {
  ModelConfig config;
  config.mixers = {RatSpec{2, 1, 8, 16}, AttentionSpec{2, 1, 8, 0}, MesaSpec{2, 8, 4, 0.25f, true},
                   AttentionSpec{2, 1, 8, 40}, RatSpec{2, 1, 8, 32}};
  return config;
}

class StateInRunsTest : public ::testing::Test {
 protected:
  void Start(int max_context, int sequences) {
    max_context_ = max_context;
    StatePoolOptions options;
    options.max_running = sequences;
    options.max_context = max_context;
    options.state_bytes = sequences * static_cast<int64_t>(layout_.SequenceBytes(max_context));
    pool_ = *StatePool::Create(layout_, options, AllocateHostState);
  }
  void Prepare(SequenceState* state) const {
    state->Prepare(layout_, SequenceNeeds(layout_, max_context_));
  }
  Span Advance(SequenceState* state, int tokens) const {
    Span span;
    state->StartSpan(tokens, pool_.get(), &span);
    return span;
  }
  int num_classes() const { return static_cast<int>(layout_.page_classes.size()); }
  // Pages of a class after so many tokens that never change again.
  int Finished(int page_class, int tokens) const {
    const PagesInUse use(layout_.page_classes[page_class], tokens);
    return use.unfinished - use.first;
  }

  const StateLayout layout_{Config()};
  int max_context_ = 0;
  std::unique_ptr<StatePool> pool_;
};

// Its pages have been listed once, with the first snapshot behind them.
TEST_F(StateInRunsTest, ASnapshotTakesTheSameMemoryAtAnyLength) {
  Start(1 << 20, 3);
  std::vector<int64_t> bytes;
  for (const int tokens : {101, 10005, 1000005}) {
    SequenceState state;
    Prepare(&state);
    state.Take(pool_.get());
    Advance(&state, tokens - 5);
    Snapshot first = state.Snap(/*share_slot=*/false, pool_.get());
    Advance(&state, 5);
    const int64_t before = NumAllocatedBytes();
    Snapshot second = state.Snap(/*share_slot=*/false, pool_.get());
    bytes.push_back(NumAllocatedBytes() - before);
    first.Release(pool_.get());
    second.Release(pool_.get());
    state.Release(pool_.get());
  }
  EXPECT_GT(bytes[0], 0);
  EXPECT_LE(bytes[1], bytes[0]);
  EXPECT_LE(bytes[2], bytes[0]);
}

TEST_F(StateInRunsTest, TheCountFindsAReferenceThatNobodyHolds) {
  Start(200, 4);
  SequenceState state;
  Prepare(&state);
  state.Take(pool_.get());
  Advance(&state, 100);
  Snapshot snapshot = state.Snap(/*share_slot=*/false, pool_.get());
  const auto check = [&] {
    ReferenceCount count(*pool_);
    count.Add(state, Holder::kSequence);
    count.Add(snapshot, Holder::kCache);
    return count.Check();
  };
  EXPECT_EQ(check(), absl::OkStatus());
  pool_->RefRun(kPageParts + 1, snapshot.runs[1], Holder::kCache);
  EXPECT_THAT(check().ToString(), HasSubstr("run"));
  pool_->UnrefRun(kPageParts + 1, snapshot.runs[1], Holder::kCache);
  EXPECT_EQ(check(), absl::OkStatus());
  pool_->Ref(kTailParts, snapshot.tail, Holder::kCache);
  EXPECT_THAT(check().ToString(), HasSubstr("part"));
  pool_->Unref(kTailParts, snapshot.tail, Holder::kCache);
  state.Release(pool_.get());
  snapshot.Release(pool_.get());
}

using StateInRunsDeathTest = StateInRunsTest;

TEST_F(StateInRunsDeathTest, NoPageIsInTwoRuns) {
  Start(200, 4);
  const int kind = kPageParts + 1;
  const std::vector<int32_t> pages = {pool_->Take(kind), pool_->Take(kind)};
  pool_->Ref(kind, pages[1], Holder::kSequence);
  EXPECT_DEATH(pool_->Seal(kind, -1, pages, Holder::kSequence), "others refer to");
  pool_->Unref(kind, pages[1], Holder::kSequence);
  pool_->Seal(kind, -1, pages, Holder::kSequence);
  EXPECT_DEATH(pool_->Seal(kind, -1, pages, Holder::kSequence), "others refer to");
  EXPECT_DEATH(pool_->Ref(kind, pages[0], Holder::kSequence), "free part");
  EXPECT_DEATH(pool_->Unref(kind, pages[0], Holder::kSequence), "freed twice");
}

// Sequences and snapshots come, go on and go in any order, while the pool reclaims what it needs.
class StateInRunsStorm : public StateInRunsTest {
 protected:
  // What is in the finished pages of a text, by class.
  using Contents = std::vector<std::vector<int>>;
  struct Running {
    SequenceState state;
    Contents contents;
    Span span;  // The last one, for its tables.
  };
  struct Kept {
    Snapshot snapshot;
    Contents contents;
  };

  int Pick(size_t n) { return static_cast<int>(random_() % n); }
  template <class T>
  T TakeAny(std::vector<T>* of) {
    std::swap((*of)[Pick(of->size())], of->back());
    T taken = std::move(of->back());
    of->pop_back();
    return taken;
  }
  // Of whoever has written or brought the pages up to there.
  void Write(int page_class, int tokens, const int32_t* pages, Contents* contents) {
    std::vector<int>& in = (*contents)[page_class];
    for (int b = static_cast<int>(in.size()); b < Finished(page_class, tokens); ++b) {
      in.push_back(++last_content_);
      in_pages_[{page_class, pages[b]}] = last_content_;
    }
  }

  void Begin() {
    auto one = std::make_unique<Running>();
    Prepare(&one->state);
    one->contents.resize(num_classes());
    if (!kept_.empty() && Pick(4) > 0) {
      const Kept& from = kept_[Pick(kept_.size())];
      if (from.snapshot.position >= max_context_) return;
      one->state.Resume(from.snapshot, pool_.get());
      one->contents = from.contents;
      ASSERT_TRUE(one->state.FitsBesideSnapshot(*pool_));
    }
    one->state.Take(pool_.get(), /*share_slot=*/Pick(2) == 0);
    running_.push_back(std::move(one));
    GoOn(running_.back().get());
  }
  void GoOn(Running* one) {
    const int left = max_context_ - one->state.position();
    if (left == 0) return;
    one->span = Advance(&one->state, 1 + Pick(std::min(left, 60)));
    for (int c = 0; c < num_classes(); ++c) {
      if (layout_.page_classes[c].kind == PageClass::Kind::kWindow) continue;
      Write(c, one->state.position(), one->span.pages[c].pages, &one->contents);
    }
  }
  void Snap(Running* one) {
    if (one->state.position() < kMinSnapshotTokens) return;
    if (!one->state.CanSnap(*pool_, /*free=*/Pick(2) == 0)) return;
    kept_.push_back({one->state.Snap(/*share_slot=*/Pick(2) == 0, pool_.get()), one->contents});
  }
  void End() {
    const std::unique_ptr<Running> one = TakeAny(&running_);
    if (one->state.position() >= kMinSnapshotTokens && Pick(3) > 0) {
      kept_.push_back({one->state.HandOver(pool_.get()), one->contents});
    } else {
      one->state.Release(pool_.get());
    }
  }
  void ParkAndGoOn() {
    const std::unique_ptr<Running>& one = running_[Pick(running_.size())];
    if (one->state.position() < kMinSnapshotTokens) return;
    ASSERT_EQ(one->state.Park(pool_.get()), absl::OkStatus());
    Check();
    ASSERT_TRUE(one->state.FitsUnparked(*pool_));
    one->state.Unpark(pool_.get());
    Contents contents = std::exchange(one->contents, Contents(num_classes()));
    for (int c = 0; c < num_classes(); ++c) {  // Its bytes are elsewhere now.
      if (contents[c].empty()) continue;
      Write(c, one->state.position(), one->span.pages[c].pages, &one->contents);
    }
  }
  void Bring() {
    absl::StatusOr<Snapshot> snapshot =
        TakeParts(kMinSnapshotTokens + Pick(max_context_ - kMinSnapshotTokens), 0, pool_.get());
    if (!snapshot.ok()) return;
    Contents contents(num_classes());
    for (int c = 0; c < num_classes(); ++c) {
      if (layout_.page_classes[c].kind == PageClass::Kind::kWindow) continue;
      Write(c, snapshot->position, snapshot->pages[c].data(), &contents);
    }
    snapshot->Seal(pool_.get());
    kept_.push_back({*std::move(snapshot), std::move(contents)});
  }

  void Check() {
    ASSERT_EQ(pool_->CheckIntegrity(), absl::OkStatus());
    ReferenceCount count(*pool_);
    for (const auto& one : running_) {
      if (!one->state.parked()) count.Add(one->state, Holder::kSequence);
    }
    for (const Kept& kept : kept_) count.Add(kept.snapshot, Holder::kCache);
    ASSERT_EQ(count.Check(), absl::OkStatus());
    for (int c = 0; c < num_classes(); ++c) CheckClass(c);
  }
  void CheckClass(int c) {
    const int kind = kPageParts + c;
    const PageRuns& runs = pool_->runs(kind);
    std::map<int32_t, std::set<int>> of_sequences;  // Page to those who have it.
    std::set<int32_t> all;
    for (size_t i = 0; i < running_.size(); ++i) {
      const Running& one = *running_[i];
      if (one.state.parked()) continue;
      for (size_t b = 0; b < one.contents[c].size(); ++b) {
        ASSERT_EQ((in_pages_[{c, one.span.pages[c].pages[b]}]), one.contents[c][b]) << b;
      }
      const auto has = [&](int32_t page) { of_sequences[page].insert(static_cast<int>(i)); };
      one.state.ForEachPart([&](int k, int32_t part) {
        if (k == kind) has(part);
      });
      one.state.ForEachRun([&](int k, int32_t run) {
        if (k != kind) return;
        for (const int32_t page : runs.PagesTo(run)) has(page);
      });
    }
    for (const auto& [page, who] : of_sequences) all.insert(page);
    for (const Kept& kept : kept_) {
      const std::vector<int32_t> finished = runs.PagesTo(kept.snapshot.runs[c]);
      ASSERT_EQ(finished.size(), kept.contents[c].size());
      for (size_t b = 0; b < finished.size(); ++b) {
        ASSERT_EQ((in_pages_[{c, finished[b]}]), kept.contents[c][b]) << b;
      }
      all.insert(finished.begin(), finished.end());
      all.insert(kept.snapshot.pages[c].begin(), kept.snapshot.pages[c].end());
    }
    EXPECT_EQ(pool_->reclaimable(kind), static_cast<int>(all.size() - of_sequences.size()));
    EXPECT_EQ(pool_->free(kind), pool_->total()[kind] - static_cast<int>(all.size()));
    for (size_t i = 0; i < running_.size(); ++i) {
      if (running_[i]->state.parked()) continue;
      PartCounts own;
      running_[i]->state.CountOwn(*pool_, &own);
      const auto alone = std::count_if(
          of_sequences.begin(), of_sequences.end(),
          [&](const auto& of) { return of.second == std::set<int>{static_cast<int>(i)}; });
      EXPECT_EQ(own.pages[c], alone);
    }
  }

  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Running>> running_;
  std::vector<Kept> kept_;
  std::map<std::pair<int, int32_t>, int> in_pages_;
  int last_content_ = 0;
  int reclaimed_ = 0;
};

TEST_F(StateInRunsStorm, BooksAreRightWhoeverSharesWhat) {
  constexpr int kMostRunning = 4;
  for (int seed = 0; seed < 20; ++seed) {
    random_.seed(seed);
    Start(400, 2 * kMostRunning);
    pool_->SetReclaim([&] {
      if (kept_.empty()) return false;
      TakeAny(&kept_).snapshot.Release(pool_.get());
      ++reclaimed_;
      return true;
    });
    for (int step = 0; step < 300 && !HasFailure(); ++step) {
      const int what = Pick(12);
      if (running_.empty() || (what < 3 && running_.size() < kMostRunning)) {
        Begin();
      } else if (what < 6) {
        GoOn(running_[Pick(running_.size())].get());
      } else if (what < 8) {
        Snap(running_[Pick(running_.size())].get());
      } else if (what == 8) {
        End();
      } else if (what == 9 && !kept_.empty()) {
        TakeAny(&kept_).snapshot.Release(pool_.get());
      } else if (what == 10) {
        ParkAndGoOn();
      } else if (Pick(4) == 0) {
        Bring();
      }
      ASSERT_NO_FATAL_FAILURE(Check()) << "seed " << seed << ", step " << step;
    }
    for (auto& one : running_) one->state.Release(pool_.get());
    for (Kept& kept : kept_) kept.snapshot.Release(pool_.get());
    running_.clear();
    kept_.clear();
    for (int kind = 0; kind < pool_->kinds(); ++kind) {
      EXPECT_EQ(pool_->free(kind), pool_->total()[kind]);
    }
  }
  EXPECT_GT(reclaimed_, 20);
}

}  // namespace
}  // namespace packrat
