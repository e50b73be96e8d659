#include "runtime/scheduler.h"

#include <algorithm>
#include <deque>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace packrat {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const absl::Time kNow = absl::FromUnixSeconds(1000);
constexpr absl::Time kNever = absl::InfiniteFuture();
constexpr absl::Duration kPriorityStep = absl::Milliseconds(200);

// Makes inputs and reads plans.
class SchedulerTest : public ::testing::Test {
 protected:
  PartCounts Need(int pages) { return {1, 1, {pages}}; }

  struct Waits {
    int pages = 1;
    int priority = 0;
    int tenant = 0;
    absl::Time arrived = kNow;
    absl::Time deadline = kNever;
    int overtaken = 0;
    int output = 10;  // Tokens.
  };
  // Returns its number.
  uint64_t Wait(int prompt, const Waits& w) {
    needs_.push_back(Need(w.pages));
    WaitingItem item;
    item.arrival = next_++;
    item.arrived = w.arrived;
    item.deadline = w.deadline;
    item.prompt_tokens = prompt;
    item.cost = prompt + w.output;
    item.need = &needs_.back();
    item.overtaken = w.overtaken;
    waiting_[{w.tenant, w.priority}].items.push_back(item);
    return item.arrival;
  }
  void Wait(int prompt, int pages, int priority = 0, absl::Time deadline = kNever) {
    Waits w;
    w.pages = pages;
    w.priority = priority;
    w.deadline = deadline;
    Wait(prompt, w);
  }
  void Run(int position, int prompt_left, int priority = 0, absl::Time deadline = kNever,
           int tenant = 0) {
    running_.push_back({{priority, next_++}, tenant, deadline, position, prompt_left});
  }
  const StepPlan& Plan(absl::Time now = kNow) {
    flows_.clear();
    for (auto& [key, queue] : waiting_) {
      flows_.push_back({key.first, key.second, queue.last_admission, queue.items});
    }
    ScheduleInput input;
    input.flows = flows_;
    input.tenants = tenants_;
    input.running = running_;
    input.free = &free_;
    input.max_running = max_running_;
    input.max_batch_tokens = budget_;
    input.priority_step = kPriorityStep;
    input.now = now;
    PlanStep(input, &plan_);
    return plan_;
  }
  const WaitingItem& At(WaitingIndex index) { return flows_[index.flow].waiting[index.item]; }
  // The numbers of what the last plan admits, in order.
  std::vector<uint64_t> Admitted() {
    std::vector<uint64_t> numbers;
    for (WaitingIndex index : plan_.admit) numbers.push_back(At(index).arrival);
    return numbers;
  }
  // Plans and does what an engine would: what is admitted leaves the queue and is charged, but
  // holds no memory. Returns the numbers.
  std::vector<uint64_t> Take(absl::Time now = kNow) {
    Plan(now);
    std::vector<uint64_t> numbers = Admitted();
    for (const StepPlan::Overtaken& entry : plan_.overtaken) {
      const Flow& flow = flows_[entry.index.flow];
      waiting_[{flow.tenant, flow.priority}].items[entry.index.item].overtaken +=
          static_cast<int>(numbers.size()) - entry.admitted_before;
    }
    for (WaitingIndex index : plan_.admit) {
      const Flow& flow = flows_[index.flow];
      TenantShare& tenant = tenants_[flow.tenant];
      tenant.served += static_cast<double>(At(index).cost) / tenant.weight;
      waiting_[{flow.tenant, flow.priority}].last_admission = now;
    }
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      auto& items = it->second.items;
      items.erase(std::remove_if(items.begin(), items.end(),
                                 [&](const WaitingItem& item) {
                                   return std::count(numbers.begin(), numbers.end(), item.arrival) >
                                          0;
                                 }),
                  items.end());
      it = items.empty() ? waiting_.erase(it) : std::next(it);
    }
    return numbers;
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
  struct Queue {
    absl::Time last_admission = absl::InfinitePast();
    std::vector<WaitingItem> items;
  };
  std::map<std::pair<int, int>, Queue> waiting_;  // By tenant and priority.
  std::vector<TenantShare> tenants_ = {{1, 0}, {1, 0}, {1, 0}};
  std::vector<RunningItem> running_;
  std::vector<Flow> flows_;  // Of the last plan.
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

TEST_F(SchedulerTest, HigherPriorityGoesFirst) {
  max_running_ = 2;
  Wait(5, 1);
  Wait(5, 1, /*priority=*/-1);
  Wait(5, 1, /*priority=*/7);
  Wait(5, 1, /*priority=*/7);
  EXPECT_THAT((Plan(), Admitted()), ElementsAre(2, 3));
}

// A flow that never ends has all places but those that waiting gives to the other.
TEST_F(SchedulerTest, WaitingCountsAsPriority) {
  constexpr int kLevels = 100;
  max_running_ = 1;
  const uint64_t low = Wait(5, {.priority = -kLevels});
  absl::Time now = kNow;
  int admitted = 0;
  for (;; now += absl::Milliseconds(10)) {
    Wait(5, {.arrived = now});
    const std::vector<uint64_t> numbers = Take(now);
    ASSERT_EQ(numbers.size(), 1u);
    ++admitted;
    if (numbers[0] == low) break;
    ASSERT_LT(now - kNow, kLevels * kPriorityStep);
  }
  EXPECT_EQ(now - kNow, kLevels * kPriorityStep);
  EXPECT_GT(admitted, 1900);  // Until then the others have them all.
  // The next of that flow waits as long again, however long it has been there.
  const uint64_t next = Wait(5, {.priority = -kLevels, .arrived = kNow});
  waiting_[{0, -kLevels}].last_admission = now;
  now += absl::Milliseconds(10);
  Wait(5, {.arrived = now});
  EXPECT_NE(Take(now)[0], next);
}

TEST_F(SchedulerTest, TenantsTakeTurns) {
  max_running_ = 1;
  std::vector<uint64_t> flood, second, third;
  for (int i = 0; i < 100; ++i) flood.push_back(Wait(50, {.tenant = 0}));
  for (int i = 0; i < 3; ++i) second.push_back(Wait(50, {.tenant = 1}));
  third.push_back(Wait(50, {.tenant = 2}));
  std::vector<uint64_t> order;
  for (int i = 0; i < 8; ++i) order.push_back(Take()[0]);
  EXPECT_THAT(order, ElementsAre(flood[0], second[0], third[0], flood[1], second[1], flood[2],
                                 second[2], flood[3]));
}

// Also where several are admitted in one step, and whatever the flood has waited.
TEST_F(SchedulerTest, AFloodDoesNotStarveAnotherTenant) {
  max_running_ = 4;
  for (int i = 0; i < 1000; ++i) Wait(50, {.tenant = 0, .arrived = kNow - absl::Hours(1)});
  tenants_[0].served = 5000;  // As it has for an hour.
  tenants_[1].served = 5000;
  std::vector<uint64_t> other;
  for (int i = 0; i < 2; ++i) other.push_back(Wait(50, {.tenant = 1}));
  EXPECT_THAT(Take(), ElementsAre(0, other[0], 1, other[1]));
}

TEST_F(SchedulerTest, TurnsAreOfTokensByWeight) {
  max_running_ = 1;
  tenants_ = {{1, 0}, {3, 0}};
  for (int i = 0; i < 200; ++i) Wait(90, {.tenant = 0, .output = 10});
  for (int i = 0; i < 200; ++i) Wait(30, {.tenant = 1, .output = 20});
  int64_t tokens[2] = {};
  for (int i = 0; i < 100; ++i) {
    const uint64_t number = Take()[0];
    tokens[number < 200 ? 0 : 1] += number < 200 ? 100 : 50;
  }
  EXPECT_NEAR(static_cast<double>(tokens[1]) / static_cast<double>(tokens[0]), 3, 0.2);
}

TEST_F(SchedulerTest, APriorityIsAboveTurns) {
  max_running_ = 1;
  tenants_[1].served = 1e6;
  Wait(5, {.tenant = 0});
  const uint64_t high = Wait(5, {.priority = 1, .tenant = 1});
  EXPECT_EQ(Take()[0], high);
}

TEST_F(SchedulerTest, WhatDoesNotFitIsPassedOverForAWhile) {
  free_.pages[0] = 10;
  max_running_ = 100;
  budget_ = 1000;
  const uint64_t large = Wait(5, {.pages = 11});
  for (int i = 0; i < 3; ++i) Wait(5, {.pages = 1});
  Wait(5, {.pages = 1, .priority = -1});
  EXPECT_THAT((Plan(), Admitted()), ElementsAre(1, 2, 3, 4));
  ASSERT_EQ(plan_.overtaken.size(), 1u);
  EXPECT_EQ(At(plan_.overtaken[0].index).arrival, large);
  EXPECT_EQ(plan_.overtaken[0].admitted_before, 0);
  // What comes before it by its rank has not overtaken it.
  Wait(5, {.pages = 1, .priority = 1});
  Plan();
  ASSERT_EQ(plan_.overtaken.size(), 1u);
  EXPECT_EQ(plan_.overtaken[0].admitted_before, 1);
}

TEST_F(SchedulerTest, AfterSoManyNobodyOvertakes) {
  free_.pages[0] = 50;
  max_running_ = 100;
  budget_ = 1000;
  const uint64_t large = Wait(5, {.pages = 51, .overtaken = kMaxOvertaken - 3});
  for (int i = 0; i < 20; ++i) Wait(5, {.pages = 1});
  EXPECT_EQ(Take().size(), 3u);
  EXPECT_THAT(Take(), IsEmpty());
  Wait(5, {.pages = 1, .tenant = 1});  // Nor does one of a tenant with the same claim.
  tenants_[1].served = tenants_[0].served;
  EXPECT_THAT(Take(), IsEmpty());
  free_.pages[0] = 51;
  EXPECT_EQ(Take()[0], large);
}

TEST_F(SchedulerTest, NothingThatFitsNothingThatIsOvertaken) {
  free_.pages[0] = 1;
  for (int i = 0; i < 200; ++i) Wait(5, {.pages = 2});
  EXPECT_THAT((Plan(), Admitted()), IsEmpty());
  EXPECT_THAT(plan_.overtaken, IsEmpty());
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

// A queue under a stream of small requests: the large one gets its turn, since after a while
// nobody comes between.
TEST_F(SchedulerTest, ALargeRequestIsNotStarvedBySmallOnes) {
  struct Active {
    int pages, steps_left;
  };
  std::mt19937_64 random(3);
  std::vector<Active> active;
  free_.pages[0] = 20;
  for (int i = 0; i < 5; ++i) Wait(4, 4);
  const uint64_t large = Wait(4, {.pages = 20});
  int steps = 0, overtaken = 0;
  for (bool admitted = false; !admitted; ++steps) {
    ASSERT_LT(steps, 100);
    Wait(4, 1 + static_cast<int>(random() % 3));  // A new small one in every step.
    for (uint64_t number : Take()) {
      const int pages = needs_[number].pages[0];
      admitted = admitted || number == large;
      overtaken += number > large;
      active.push_back({pages, 5 + static_cast<int>(random() % 5)});
      free_.pages[0] -= pages;
    }
    for (size_t i = 0; i < active.size();) {
      if (--active[i].steps_left == 0) {
        free_.pages[0] += active[i].pages;
        active.erase(active.begin() + i);
      } else {
        ++i;
      }
    }
  }
  EXPECT_LE(overtaken, kMaxOvertaken);
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

    int total = 0, decoding = 0, prompts = 0, inside = 0;
    bool seen_prompt = false;
    for (const Piece& piece : plan_.pieces) {
      const int left = piece.admitted ? At(plan_.admit[piece.index]).prompt_tokens
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
        ++prompts;
      }
    }
    ASSERT_LE(total, budget_);
    ASSERT_LE(inside, prompts > 1 ? 1 : total == budget_);
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
