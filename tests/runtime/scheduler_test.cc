#include "runtime/scheduler.h"

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace packrat {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const absl::Time kNow = absl::FromUnixSeconds(1000);
constexpr absl::Time kNever = absl::InfiniteFuture();

// Makes inputs and reads plans.
class SchedulerTest : public ::testing::Test {
 protected:
  PartCounts Need(int pages) { return {1, 1, {pages}}; }

  void Wait(int prompt, int pages, int priority = 0, absl::Time deadline = kNever) {
    needs_.push_back(Need(pages));
    waiting_.push_back({{priority, next_++}, deadline, prompt, &needs_.back()});
    std::stable_sort(waiting_.begin(), waiting_.end(),
                     [](const auto& a, const auto& b) { return a.rank.Before(b.rank); });
  }
  void Run(int position, int prompt_left, int priority = 0, absl::Time deadline = kNever) {
    running_.push_back({{priority, next_++}, deadline, position, prompt_left});
  }
  const StepPlan& Plan(absl::Time now = kNow) {
    ScheduleInput input;
    input.waiting = waiting_;
    input.running = running_;
    input.free = &free_;
    input.max_running = max_running_;
    input.max_batch_tokens = budget_;
    input.now = now;
    PlanStep(input, &plan_);
    return plan_;
  }
  std::vector<int> PieceTokens() {
    std::vector<int> tokens;
    for (const Piece& piece : plan_.pieces) tokens.push_back(piece.num_tokens);
    return tokens;
  }

  PartCounts free_ = {100, 100, {100}};
  int max_running_ = 8;
  int budget_ = 64;
  uint64_t next_ = 0;
  std::deque<PartCounts> needs_;
  std::vector<WaitingItem> waiting_;
  std::vector<RunningItem> running_;
  StepPlan plan_;
};

TEST_F(SchedulerTest, NothingToDo) {
  Plan();
  EXPECT_THAT(plan_.pieces, IsEmpty());
  EXPECT_THAT(plan_.admit, IsEmpty());
}

TEST_F(SchedulerTest, AdmitsInOrderAndStartsAtOnce) {
  Wait(10, 1);
  Wait(20, 1);
  Plan();
  EXPECT_THAT(plan_.admit, ElementsAre(0, 1));
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

TEST_F(SchedulerTest, PromptsGoByPriorityThenAge) {
  budget_ = 32;
  Run(0, 32);
  Run(0, 32, /*priority=*/1);
  Wait(32, 1, /*priority=*/2);
  Plan();
  ASSERT_EQ(plan_.pieces.size(), 1u);
  EXPECT_TRUE(plan_.pieces[0].admitted);
  waiting_.clear();
  Plan();
  ASSERT_EQ(plan_.pieces.size(), 1u);
  EXPECT_EQ(plan_.pieces[0].index, 1);
}

TEST_F(SchedulerTest, AdmissionToTheLastPage) {
  free_ = {8, 8, {10}};
  Wait(5, 4);
  Wait(5, 6);
  Wait(5, 1);
  EXPECT_THAT(Plan().admit, ElementsAre(0, 1));
  free_.pages[0] = 9;
  EXPECT_THAT(Plan().admit, ElementsAre(0));
  free_.pages[0] = 11;
  EXPECT_THAT(Plan().admit, ElementsAre(0, 1, 2));
  free_.slots = 2;
  EXPECT_THAT(Plan().admit, ElementsAre(0, 1));
  free_.slots = 8;
  free_.tails = 1;
  EXPECT_THAT(Plan().admit, ElementsAre(0));
}

TEST_F(SchedulerTest, NoMoreThanMaxRunning) {
  max_running_ = 3;
  Run(4, 0);
  for (int i = 0; i < 4; ++i) Wait(5, 1);
  EXPECT_THAT(Plan().admit, ElementsAre(0, 1));
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

TEST_F(SchedulerTest, NobodyOvertakesTheHead) {
  free_.pages[0] = 10;
  Wait(5, 11);  // Does not fit now.
  Wait(5, 1);
  Wait(5, 1, /*priority=*/-1);
  EXPECT_THAT(Plan().admit, IsEmpty());
  Wait(5, 1, /*priority=*/1);  // Goes before the head, by its priority: becomes the head.
  EXPECT_THAT(Plan().admit, ElementsAre(0));
  EXPECT_EQ(waiting_[0].rank.priority, 1);
}

TEST_F(SchedulerTest, DeadlinesExpireInEveryState) {
  Run(5, 0, 0, kNow);
  Run(5, 0, 0, kNow + absl::Nanoseconds(1));
  Run(5, 9, 0, kNow - absl::Seconds(1));
  Wait(5, 200, 0, kNow);  // Expires, so does not block what stands behind it.
  Wait(5, 1);
  Plan();
  EXPECT_THAT(plan_.expire_running, ElementsAre(0, 2));
  EXPECT_THAT(plan_.expire_waiting, ElementsAre(0));
  EXPECT_THAT(plan_.admit, ElementsAre(1));
  ASSERT_EQ(plan_.pieces.size(), 2u);
  EXPECT_EQ(plan_.pieces[0].index, 1);
}

// A queue under a stream of small requests: the large one gets its turn, since what runs ends and
// nobody comes between.
TEST_F(SchedulerTest, ALargeRequestIsNotStarvedBySmallOnes) {
  struct Active {
    int pages, steps_left;
  };
  std::mt19937_64 random(3);
  std::vector<Active> active;
  free_.pages[0] = 20;
  for (int i = 0; i < 5; ++i) Wait(4, 4);
  Wait(4, 20);
  const uint64_t large = next_ - 1;
  int steps = 0;
  bool admitted = false;
  while (!admitted) {
    ASSERT_LT(++steps, 50);
    Wait(4, 1 + static_cast<int>(random() % 3));  // A new small one in every step.
    Plan();
    std::vector<WaitingItem> left;
    for (size_t i = 0; i < waiting_.size(); ++i) {
      const bool taken = std::find(plan_.admit.begin(), plan_.admit.end(), i) != plan_.admit.end();
      if (!taken) {
        left.push_back(waiting_[i]);
        continue;
      }
      EXPECT_LE(waiting_[i].rank.arrival, large);
      admitted = admitted || waiting_[i].rank.arrival == large;
      active.push_back({waiting_[i].need->pages[0], 5 + static_cast<int>(random() % 5)});
      free_.pages[0] -= active.back().pages;
    }
    waiting_ = left;
    for (size_t i = 0; i < active.size();) {
      if (--active[i].steps_left == 0) {
        free_.pages[0] += active[i].pages;
        active.erase(active.begin() + i);
      } else {
        ++i;
      }
    }
  }
}

// Any input: the budget is kept, decoding comes first, prompts move, admission is a prefix of what
// has not expired and fits.
TEST_F(SchedulerTest, InvariantsOnRandomInputs) {
  std::mt19937_64 random(11);
  const auto pick = [&](int n) { return static_cast<int>(random() % n); };
  for (int round = 0; round < 3000; ++round) {
    waiting_.clear();
    running_.clear();
    needs_.clear();
    max_running_ = 1 + pick(10);
    budget_ = std::max(16, max_running_) + pick(100);
    free_ = {pick(6), pick(6), {pick(40)}};
    const auto deadline = [&] { return pick(4) == 0 ? kNow - absl::Seconds(pick(2)) : kNever; };
    for (int i = pick(max_running_ + 1); i > 0; --i) {
      Run(pick(300), pick(2) * pick(300), pick(3), deadline());
    }
    for (int i = pick(8); i > 0; --i) Wait(1 + pick(200), pick(30), pick(3), deadline());
    Plan();

    int total = 0, decoding = 0, prompts = 0;
    bool seen_prompt = false;
    for (const Piece& piece : plan_.pieces) {
      const int left = piece.admitted ? waiting_[plan_.admit[piece.index]].prompt_tokens
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
        if (prompts > 0 && piece.num_tokens < left) {
          ASSERT_EQ((position + piece.num_tokens) % kBlockTokens, 0);
        }
        seen_prompt = true;
        ++prompts;
      }
    }
    ASSERT_LE(total, budget_);
    int want_decoding = 0, have_prompts = static_cast<int>(plan_.admit.size());
    for (const RunningItem& item : running_) {
      if (item.deadline <= kNow) continue;
      want_decoding += item.prompt_left == 0;
      have_prompts += item.prompt_left > 0;
    }
    ASSERT_EQ(decoding, want_decoding);
    ASSERT_EQ(prompts > 0, have_prompts > 0);

    PartCounts free = free_;
    size_t taken = 0;
    for (size_t i = 0; i < waiting_.size(); ++i) {
      if (waiting_[i].deadline <= kNow) continue;
      const PartCounts& need = *waiting_[i].need;
      const bool fits = need.slots <= free.slots && need.tails <= free.tails &&
                        need.pages[0] <= free.pages[0] &&
                        running_.size() + taken < static_cast<size_t>(max_running_);
      if (!fits) break;
      ASSERT_LT(taken, plan_.admit.size());
      ASSERT_EQ(plan_.admit[taken++], static_cast<int>(i));
      free.slots -= need.slots;
      free.tails -= need.tails;
      free.pages[0] -= need.pages[0];
    }
    ASSERT_EQ(taken, plan_.admit.size());
  }
}

TEST_F(SchedulerTest, ALaterEarliestDeadlineSparesTheQueue) {
  Wait(5, 200, 0, kNow + absl::Seconds(5));
  ScheduleInput input;
  input.waiting = waiting_;
  input.free = &free_;
  input.max_running = max_running_;
  input.max_batch_tokens = budget_;
  input.earliest_waiting_deadline = kNow + absl::Seconds(5);
  input.now = kNow + absl::Seconds(4);
  PlanStep(input, &plan_);
  EXPECT_THAT(plan_.expire_waiting, IsEmpty());
  input.now = kNow + absl::Seconds(5);
  PlanStep(input, &plan_);
  EXPECT_THAT(plan_.expire_waiting, ElementsAre(0));
}

}  // namespace
}  // namespace packrat
