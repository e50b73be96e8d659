#include <algorithm>
#include <random>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/scheduler.h"
#include "tests/runtime/scheduler_fixture.h"

namespace packrat {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST_F(SchedulerTest, NothingToDo) {
  Plan();
  EXPECT_THAT(plan_.pieces, IsEmpty());
  EXPECT_THAT(plan_.admit, IsEmpty());
}

TEST_F(SchedulerTest, AdmitsInOrderAndStartsAtOnce) {
  Wait(10, 1);
  Wait(20, 1);
  Plan();
  EXPECT_THAT(Admitted(), ElementsAre(0, 1));
  EXPECT_THAT(PieceTokens(), ElementsAre(10, 20));
  EXPECT_TRUE(plan_.pieces[0].admitted);
  EXPECT_EQ(plan_.pieces[1].index, 1);
}

TEST_F(SchedulerTest, DecodingComesFirstAndEverySequenceGetsItsToken) {
  for (int i = 0; i < 7; ++i) Run(100 + i, i == 3 ? 500 : 0);
  budget_ = 8;
  Plan();
  ASSERT_EQ(plan_.pieces.size(), 7u);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(plan_.pieces[i].num_tokens, 1);
    EXPECT_NE(plan_.pieces[i].index, 3);
  }
  EXPECT_EQ(plan_.pieces[6].index, 3);
  EXPECT_EQ(plan_.pieces[6].num_tokens, 2);  // What is left of the budget: it must move.
}

TEST_F(SchedulerTest, PromptsTakeNoMoreThanTheirPartOfTheBudget) {
  Run(100, 0);
  Run(0, 200);
  Wait(40, 1);
  prompt_budget_ = 40;
  EXPECT_THAT((Plan(), PieceTokens()), ElementsAre(1, 32));
  EXPECT_THAT(Admitted(), ElementsAre(2));  // It waits for its tokens with its memory.
  running_[1].prompt_left = 20;
  EXPECT_THAT((Plan(), PieceTokens()), ElementsAre(1, 20, 16));
  prompt_budget_ = 1;
  EXPECT_THAT((Plan(), PieceTokens()), ElementsAre(1, 1));
  prompt_budget_ = 1000;  // More than is left.
  running_[1].prompt_left = 200;
  EXPECT_THAT((Plan(), PieceTokens()), ElementsAre(1, 48));
  running_.clear();
  waiting_.clear();
  Run(0, 200);
  for (int i = 0; i < 3; ++i) Wait(/*prompt=*/0, 1);  // They were parked, and decode again.
  prompt_budget_ = 16;
  EXPECT_THAT((Plan(), PieceTokens()), ElementsAre(1, 1, 1, 16));
}

TEST_F(SchedulerTest, PromptPiecesEndAtBlockBoundaries) {
  budget_ = 50;
  Run(0, 100);
  EXPECT_THAT((Plan(), PieceTokens()), ElementsAre(48));
  running_[0].position = 48;
  running_[0].prompt_left = 52;
  EXPECT_THAT((Plan(), PieceTokens()), ElementsAre(48));
  running_[0].position = 96;
  running_[0].prompt_left = 4;
  EXPECT_THAT((Plan(), PieceTokens()), ElementsAre(4));
  running_[0].position = 5;  // Not at a boundary: the piece ends at one again.
  running_[0].prompt_left = 200;
  EXPECT_THAT((Plan(), PieceTokens()), ElementsAre(43));
}

TEST_F(SchedulerTest, WhatABoundaryLeavesOverGoesToAShorterPrompt) {
  budget_ = 50;
  Run(0, 100);
  Run(0, 100);
  Run(0, 2);
  Plan();
  ASSERT_EQ(plan_.pieces.size(), 2u);
  EXPECT_EQ(plan_.pieces[0].num_tokens, 48);
  EXPECT_EQ(plan_.pieces[1].index, 2);
  EXPECT_EQ(plan_.pieces[1].num_tokens, 2);
}

TEST_F(SchedulerTest, PromptsGoByPriorityThenAgeAndTheFirstAdmittedMoves) {
  budget_ = 48;
  Run(0, 64);
  Run(0, 32, /*priority=*/1);
  Wait(32, 1, /*priority=*/2);
  Plan();
  ASSERT_EQ(plan_.pieces.size(), 2u);
  EXPECT_TRUE(plan_.pieces[0].admitted);
  EXPECT_EQ(plan_.pieces[0].num_tokens, 32);
  EXPECT_EQ(plan_.pieces[1].index, 0);  // Behind all, but it gets its block in every step.
  EXPECT_EQ(plan_.pieces[1].num_tokens, kBlockTokens);
  waiting_.clear();
  Plan();
  ASSERT_EQ(plan_.pieces.size(), 2u);
  EXPECT_EQ(plan_.pieces[0].index, 1);
  EXPECT_EQ(plan_.pieces[0].num_tokens, 32);
  EXPECT_EQ(plan_.pieces[1].index, 0);
  EXPECT_EQ(plan_.pieces[1].num_tokens, kBlockTokens);
}

TEST_F(SchedulerTest, TenantsShareTheBudgetOfPromptsByWeight) {
  tenants_ = {{1, 0}, {3, 0}};
  budget_ = 4 * 64 + kBlockTokens;
  for (int i = 0; i < 5; ++i) Run(0, 1000);  // A flood of the first tenant ...
  Run(0, 1000, 0, kNever, /*tenant=*/1);     // ... and one prompt of the other.
  Plan();
  ASSERT_EQ(plan_.pieces.size(), 2u);
  EXPECT_EQ(plan_.pieces[0].index, 0);
  EXPECT_EQ(plan_.pieces[0].num_tokens, kBlockTokens + 64);
  EXPECT_EQ(plan_.pieces[1].index, 5);
  EXPECT_EQ(plan_.pieces[1].num_tokens, 3 * 64);
  running_.back().prompt_left = 32;  // What it does not need is left to the others.
  Plan();
  ASSERT_EQ(plan_.pieces.size(), 2u);
  EXPECT_EQ(plan_.pieces[0].num_tokens, budget_ - 32);
  EXPECT_EQ(plan_.pieces[1].num_tokens, 32);
}

TEST_F(SchedulerTest, AdmissionToTheLastPage) {
  free_ = {8, 8, {10}};
  Wait(5, 4);
  Wait(5, 6);
  Wait(5, 1);
  EXPECT_THAT((Plan(), Admitted()), ElementsAre(0, 1));
  free_.pages[0] = 9;
  EXPECT_THAT((Plan(), Admitted()), ElementsAre(0, 2));
  free_.pages[0] = 11;
  EXPECT_THAT((Plan(), Admitted()), ElementsAre(0, 1, 2));
  free_.slots = 2;
  EXPECT_THAT((Plan(), Admitted()), ElementsAre(0, 1));
  free_.slots = 8;
  free_.tails = 1;
  EXPECT_THAT((Plan(), Admitted()), ElementsAre(0));
}

TEST_F(SchedulerTest, NoMoreThanMaxRunning) {
  max_running_ = 3;
  Run(4, 0);
  for (int i = 0; i < 4; ++i) Wait(5, 1);
  EXPECT_THAT((Plan(), Admitted()), ElementsAre(1, 2));
}

TEST_F(SchedulerTest, SaysWhatTheHeadWaitsFor) {
  max_running_ = 2;
  free_ = {2, 2, {10}};
  EXPECT_EQ(Plan().blocked, Blocked::kNothing) << "nobody waits";
  Wait(10, 6);
  EXPECT_EQ(Plan().blocked, Blocked::kNothing) << "it is admitted";
  Wait(10, 6);
  EXPECT_EQ(Plan().blocked, Blocked::kMemory) << "the pages are gone";
  free_.pages[0] = 100;
  Wait(10, 6);
  EXPECT_EQ(Plan().blocked, Blocked::kMaxRunning);
  Run(100, 0);
  free_.pages[0] = 0;
  EXPECT_EQ(Plan().blocked, Blocked::kMemory) << "one place is left, and no page";
  Run(100, 0);
  EXPECT_EQ(Plan().blocked, Blocked::kMaxRunning) << "the batch is full, whatever the memory";
  waiting_.clear();
  EXPECT_EQ(Plan().blocked, Blocked::kNothing);
}

TEST_F(SchedulerTest, DeadlinesExpireInEveryState) {
  Run(5, 0, 0, kNow);
  Run(5, 0, 0, kNow + absl::Nanoseconds(1));
  Run(5, 9, 0, kNow - absl::Seconds(1));
  Wait(5, 200, 0, kNow);  // Expires, so does not block what stands behind it.
  Wait(5, 1);
  Plan();
  EXPECT_THAT(plan_.expire_running, ElementsAre(0, 2));
  ASSERT_EQ(plan_.expire_waiting.size(), 1u);
  EXPECT_EQ(At(plan_.expire_waiting[0]).arrival, 3u);
  EXPECT_THAT(Admitted(), ElementsAre(4));
  ASSERT_EQ(plan_.pieces.size(), 2u);
  EXPECT_EQ(plan_.pieces[0].index, 1);
}

// Any input: the budget is kept, decoding comes first, prompts move, what is admitted fits and has
// not expired, and nothing stays idle for what waits.
TEST_F(SchedulerTest, InvariantsOnRandomInputs) {
  std::mt19937_64 random(11);
  const auto pick = [&](int n) { return static_cast<int>(random() % n); };
  for (int round = 0; round < 3000; ++round) {
    waiting_.clear();
    running_.clear();
    needs_.clear();
    max_running_ = 1 + pick(10);
    budget_ = std::max(16, max_running_) + pick(100);
    prompt_budget_ = 1 + pick(200);
    free_ = {pick(6), pick(6), {pick(40)}};
    for (TenantShare& tenant : tenants_) tenant = {0.5 + pick(4), static_cast<double>(pick(3))};
    const auto deadline = [&] { return pick(4) == 0 ? kNow - absl::Seconds(pick(2)) : kNever; };
    for (int i = pick(max_running_ + 1); i > 0; --i) {
      Run(pick(300), pick(2) * pick(300), pick(3), deadline(), pick(3));
    }
    for (int i = pick(8); i > 0; --i) {
      Wait(1 + pick(200), {.pages = pick(30),
                           .priority = pick(3),
                           .tenant = pick(3),
                           .arrived = kNow - absl::Milliseconds(pick(1000)),
                           .deadline = deadline(),
                           .overtaken = pick(2) * kMaxOvertaken});
    }
    Plan();

    int total = 0, decoding = 0, prompts = 0, inside = 0, prompt_tokens = 0;
    bool seen_prompt = false;
    for (const Piece& piece : plan_.pieces) {
      const int left = piece.admitted ? At(plan_.admit[piece.index]).prompt_left
                                      : running_[piece.index].prompt_left;
      const int position = piece.admitted ? 0 : running_[piece.index].position;
      total += piece.num_tokens;
      ASSERT_GE(piece.num_tokens, 1);
      if (left == 0) {
        ASSERT_FALSE(seen_prompt);
        ASSERT_EQ(piece.num_tokens, 1);
        ++decoding;
      } else {
        ASSERT_LE(piece.num_tokens, left);
        inside += piece.num_tokens < left && (position + piece.num_tokens) % kBlockTokens != 0;
        seen_prompt = true;
        prompt_tokens += piece.num_tokens;
        ++prompts;
      }
    }
    ASSERT_LE(total, budget_);
    ASSERT_LE(prompt_tokens, prompt_budget_);
    ASSERT_LE(inside, prompts > 1 ? 1 : total == budget_ || prompt_tokens == prompt_budget_);
    int want_decoding = 0, have_prompts = static_cast<int>(plan_.admit.size());
    for (const RunningItem& item : running_) {
      if (item.deadline <= kNow) continue;
      want_decoding += item.prompt_left == 0;
      have_prompts += item.prompt_left > 0;
    }
    ASSERT_EQ(decoding, want_decoding);
    ASSERT_EQ(prompts > 0, have_prompts > 0);

    PartCounts free = free_;
    std::set<uint64_t> admitted;
    for (WaitingIndex index : plan_.admit) {
      const WaitingItem& item = At(index);
      ASSERT_GT(item.deadline, kNow);
      ASSERT_TRUE(admitted.insert(item.arrival).second);
      free.slots -= item.need->slots;
      free.tails -= item.need->tails;
      free.pages[0] -= item.need->pages[0];
    }
    ASSERT_GE(std::min({free.slots, free.tails, free.pages[0]}), 0);
    ASSERT_LE(running_.size() + admitted.size(), static_cast<size_t>(max_running_));
    // What fits still was left waiting only behind one that nobody may overtake.
    bool waits = false, blocked = false;
    for (const Flow& flow : flows_) {
      for (const WaitingItem& item : flow.waiting) {
        if (item.deadline <= kNow || admitted.count(item.arrival) > 0) continue;
        const bool fits = free.slots > 0 && free.tails > 0 && item.need->pages[0] <= free.pages[0];
        waits = waits || fits;
        blocked = blocked || (!fits && item.overtaken == kMaxOvertaken);
      }
    }
    const bool full = running_.size() + admitted.size() == static_cast<size_t>(max_running_);
    ASSERT_TRUE(!waits || blocked || full);
  }
}

TEST_F(SchedulerTest, ALaterEarliestDeadlineSparesTheQueue) {
  Wait(5, 200, 0, kNow + absl::Seconds(5));
  Plan(kNow);  // Fills in flows_.
  ScheduleInput input;
  input.flows = flows_;
  input.tenants = tenants_;
  input.free = &free_;
  input.max_running = max_running_;
  input.max_batch_tokens = budget_;
  input.earliest_waiting_deadline = kNow + absl::Seconds(5);
  input.now = kNow + absl::Seconds(4);
  PlanStep(input, &plan_);
  EXPECT_THAT(plan_.expire_waiting, IsEmpty());
  input.now = kNow + absl::Seconds(5);
  PlanStep(input, &plan_);
  EXPECT_EQ(plan_.expire_waiting.size(), 1u);
}

}  // namespace
}  // namespace packrat
