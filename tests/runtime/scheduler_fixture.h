// Inputs of the scheduler in a few words, and what its plans say.
#ifndef PACKRAT_TESTS_RUNTIME_SCHEDULER_FIXTURE_H_
#define PACKRAT_TESTS_RUNTIME_SCHEDULER_FIXTURE_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/scheduler.h"

namespace packrat {

inline const absl::Time kNow = absl::FromUnixSeconds(1000);
inline constexpr absl::Time kNever = absl::InfiniteFuture();
inline constexpr absl::Duration kPriorityStep = absl::Milliseconds(200);

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
    item.prompt_left = prompt;
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
  struct Runs {
    int priority = 0;
    int tenant = 0;
    absl::Time deadline = kNever;
    int64_t level = 0;
    int progress = kParkTokens;
    int64_t bytes = 1;
    int pages = 1;
    bool complete = false;
  };
  // Decodes, and can be parked.
  void Run(const Runs& r) {
    needs_.push_back(Need(r.pages));
    RunningItem item = {{r.priority, next_++}, r.tenant, r.deadline, 100, 0, r.complete};
    item.level = r.level;
    item.progress = r.progress;
    item.bytes = r.bytes;
    item.frees = &needs_.back();
    running_.push_back(item);
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
    input.max_logit_rows = rows_;
    input.max_prompt_tokens = prompt_budget_;
    input.priority_step = kPriorityStep;
    input.park_room = park_room_;
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
  int prompt_budget_ = 1000000;
  int rows_ = 1000;
  int64_t park_room_ = 0;
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

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_SCHEDULER_FIXTURE_H_
