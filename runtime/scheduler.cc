#include "runtime/scheduler.h"

#include <algorithm>
#include <limits>

#include "kernels/check.h"

namespace packrat {
namespace {

bool Fits(const PartCounts& need, const PartCounts& free) {
  if (need.slots > free.slots || need.tails > free.tails) return false;
  for (size_t c = 0; c < need.pages.size(); ++c) {
    if (need.pages[c] > free.pages[c]) return false;
  }
  return true;
}

void Add(const PartCounts& parts, int times, PartCounts* free) {
  free->slots += times * parts.slots;
  free->tails += times * parts.tails;
  for (size_t c = 0; c < parts.pages.size(); ++c) free->pages[c] += times * parts.pages[c];
}

void Expire(const ScheduleInput& input, StepPlan* plan) {
  for (size_t i = 0; i < input.running.size(); ++i) {
    if (input.running[i].deadline <= input.now) plan->expire_running.push_back(i);
  }
  if (input.now < input.earliest_waiting_deadline) return;
  for (size_t f = 0; f < input.flows.size(); ++f) {
    const absl::Span<const WaitingItem> waiting = input.flows[f].waiting;
    for (size_t i = 0; i < waiting.size(); ++i) {
      if (waiting[i].deadline > input.now) continue;
      plan->expire_waiting.push_back({static_cast<int>(f), static_cast<int>(i)});
    }
  }
}

const WaitingItem& At(const ScheduleInput& input, WaitingIndex index) {
  return input.flows[index.flow].waiting[index.item];
}

// Admission, one request at a time.
class Admission {
 public:
  // The parts of what expires in this step are free in the next.
  Admission(const ScheduleInput& input, StepPlan* plan) : input_(input), plan_(plan) {
    plan->free.slots = input.free->slots;
    plan->free.tails = input.free->tails;
    plan->free.pages.assign(input.free->pages.begin(), input.free->pages.end());
    plan->flows.clear();
    for (const Flow& flow : input.flows) plan->flows.push_back({0, flow.last_admission});
    plan->served.clear();
    for (const TenantShare& tenant : input.tenants) plan->served.push_back(tenant.served);
  }

  void Run() {
    FindParkable();
    while ((Places() > 0 || MayPark()) && !SomebodyHasWaitedEnough() &&
           plan_->overtaken.size() < kMaxPassedOver) {
      const int flow = NextFlow();
      if (flow < 0) break;
      const int64_t level = Level(flow);
      const WaitingIndex index = {flow, plan_->flows[flow].next++};
      const WaitingItem& item = At(input_, index);
      if (item.deadline <= input_.now) continue;
      if (HasRoom(item) || ParkFor(index, level)) {
        Admit(index, level);
        continue;
      }
      if (plan_->blocked == Blocked::kNothing) plan_->blocked = WhatIsMissing();
      plan_->overtaken.push_back({index, NumAdmitted()});
    }
    if (plan_->blocked == Blocked::kNothing && SomebodyWaits()) plan_->blocked = WhatIsMissing();
    while (!plan_->overtaken.empty() && plan_->overtaken.back().admitted_before == NumAdmitted()) {
      plan_->overtaken.pop_back();
    }
  }

 private:
  int NumAdmitted() const { return static_cast<int>(plan_->admit.size()); }

  // In the batch.
  int FreePlaces() const {
    const size_t running = input_.running.size() - plan_->park.size() + plan_->admit.size();
    return input_.max_running - static_cast<int>(running);
  }
  // A tail is needed in any case.
  int Places() const { return std::min<int>(FreePlaces(), plan_->free.tails); }
  bool HasRoom(const WaitingItem& item) const {
    return FreePlaces() > 0 && Fits(*item.need, plan_->free);
  }
  Blocked WhatIsMissing() const {
    return FreePlaces() > 0 ? Blocked::kMemory : Blocked::kMaxRunning;
  }

  bool Waits(size_t flow) const {
    return plan_->flows[flow].next < static_cast<int>(input_.flows[flow].waiting.size());
  }

  // Of those that have not expired, beside those that were passed over.
  bool SomebodyWaits() {
    for (int flow = NextFlow(); flow >= 0; flow = NextFlow()) {
      if (First(flow).deadline > input_.now) return true;
      ++plan_->flows[flow].next;
    }
    return false;
  }

  const WaitingItem& First(size_t flow) const {
    return input_.flows[flow].waiting[plan_->flows[flow].next];
  }

  // What is parked joins its flow in front, and later than those behind it came.
  absl::Time WaitsSince(size_t flow) const {
    const absl::Span<const WaitingItem> waiting = input_.flows[flow].waiting;
    absl::Time since = absl::InfiniteFuture();
    for (size_t i = plan_->flows[flow].next; i < waiting.size(); ++i) {
      since = std::min(since, waiting[i].arrived);
      if (waiting[i].position == 0) break;
    }
    return since;
  }

  // The priority that the flow has by now.
  int64_t Level(size_t flow) const {
    const absl::Time since = std::max(WaitsSince(flow), plan_->flows[flow].last_admission);
    absl::Duration rest;
    const int64_t gained = absl::IDivDuration(input_.now - since, input_.priority_step, &rest);
    return input_.flows[flow].priority + std::clamp<int64_t>(gained, 0, int64_t{1} << 32);
  }

  // Whose first comes next; -1: nothing waits.
  int NextFlow() const {
    // Of equal levels the lower priority: it has waited longer.
    int64_t best_level = std::numeric_limits<int64_t>::min();
    int priority = 0;
    for (size_t f = 0; f < input_.flows.size(); ++f) {
      if (!Waits(f)) continue;
      const int64_t level = Level(f);
      if (level < best_level || (level == best_level && input_.flows[f].priority >= priority)) {
        continue;
      }
      best_level = level;
      priority = input_.flows[f].priority;
    }
    int best = -1;
    for (size_t f = 0; f < input_.flows.size(); ++f) {
      if (!Waits(f) || input_.flows[f].priority != priority) continue;
      if (best < 0 || HasTurnBefore(f, best)) best = static_cast<int>(f);
    }
    return best;
  }

  bool HasTurnBefore(size_t a, size_t b) const {
    const double served_a = plan_->served[input_.flows[a].tenant];
    const double served_b = plan_->served[input_.flows[b].tenant];
    return served_a != served_b ? served_a < served_b : First(a).arrival < First(b).arrival;
  }

  // Who might be parked for somebody, lowest rank first.
  void FindParkable() {
    plan_->parkable.clear();
    if (input_.park_room == 0) return;
    for (size_t i = 0; i < input_.running.size(); ++i) {
      const RunningItem& item = input_.running[i];
      const bool ends = item.complete || item.deadline <= input_.now;
      if (ends || item.frees == nullptr || item.progress < kParkTokens) continue;
      if (item.bytes <= input_.park_room) plan_->parkable.push_back(static_cast<int>(i));
    }
    std::sort(plan_->parkable.begin(), plan_->parkable.end(),
              [&](int a, int b) { return input_.running[b].rank.Before(input_.running[a].rank); });
  }

  bool MayPark() const { return !plan_->parkable.empty() && plan_->park.size() < kMaxParks; }

  bool GivesWay(const RunningItem& running, WaitingIndex index, int64_t level) const {
    const Flow& flow = input_.flows[index.flow];
    const WaitingItem& item = At(input_, index);
    if (running.rank.priority < flow.priority && running.level < level) return true;
    return IsUrgent(item, input_.now) && running.rank.priority <= flow.priority &&
           running.deadline > item.deadline &&
           plan_->served[running.tenant] >= plan_->served[flow.tenant];
  }

  void Park(int running) {
    plan_->park.push_back(running);
    Add(*input_.running[running].frees, 1, &plan_->free);
    park_room_ -= input_.running[running].bytes;
  }
  void TakeBack(size_t place) {
    const int running = plan_->park[place];
    plan_->park.erase(plan_->park.begin() + place);
    Add(*input_.running[running].frees, -1, &plan_->free);
    park_room_ += input_.running[running].bytes;
  }

  // Parks as few as make room for it. False: that cannot be done, and nobody is parked for it.
  bool ParkFor(WaitingIndex index, int64_t level) {
    const WaitingItem& item = At(input_, index);
    const size_t before = plan_->park.size();
    for (int running : plan_->parkable) {
      if (HasRoom(item) || plan_->park.size() == kMaxParks) break;
      const RunningItem& candidate = input_.running[running];
      if (candidate.bytes > park_room_ || IsParked(running)) continue;
      if (GivesWay(candidate, index, level)) Park(running);
    }
    const bool enough = HasRoom(item);
    // Who was parked first may not have been needed in the end.
    for (size_t i = plan_->park.size(); i-- > before;) {
      const int running = plan_->park[i];
      TakeBack(i);
      if (enough && !HasRoom(item)) Park(running);
    }
    return enough;
  }

  bool IsParked(int running) const {
    return std::find(plan_->park.begin(), plan_->park.end(), running) != plan_->park.end();
  }

  void Admit(WaitingIndex index, int64_t level) {
    const WaitingItem& item = At(input_, index);
    const int tenant = input_.flows[index.flow].tenant;
    Add(*item.need, -1, &plan_->free);
    plan_->flows[index.flow].last_admission = input_.now;
    plan_->served[tenant] += static_cast<double>(item.cost) / input_.tenants[tenant].weight;
    plan_->admit.push_back(index);
    plan_->levels.push_back(level);
  }

  // Whether one more admission would be one too many for somebody who was passed over.
  bool SomebodyHasWaitedEnough() const {
    return std::any_of(plan_->overtaken.begin(), plan_->overtaken.end(), [&](const auto& entry) {
      const int now = NumAdmitted() - entry.admitted_before;
      return At(input_, entry.index).overtaken + now >= kMaxOvertaken;
    });
  }

  const ScheduleInput& input_;
  StepPlan* const plan_;
  int64_t park_room_ = input_.park_room;
};

// Tokens of a prompt piece. Pieces end at block boundaries or the prompt's end, since blocks are
// what the kernels compute at once; only a piece that would otherwise be empty, and that
// `must_move`, ends inside a block.
int PieceTokens(int position, int left, int budget, bool must_move) {
  if (left <= budget) return left;
  const int end = (position + budget) / kBlockTokens * kBlockTokens;
  if (end > position) return end - position;
  return must_move ? budget : 0;
}

// Whether it has more rows of logits to come than the one that is kept for it.
bool SharesRows(const StepPlan::Prompt& prompt) {
  return prompt.first_row < prompt.position + prompt.left - 1;
}

// Gives a prompt what it can use of `budget`, but at most `share`, and takes it from both.
void Give(StepPlan::Budget* budget, StepPlan::Budget* share, StepPlan::Prompt* prompt,
          bool must_move = false) {
  const int position = prompt->position + prompt->tokens;
  const int without_row = std::max(prompt->first_row - position, 0);
  const bool shares_rows = SharesRows(*prompt);
  int most = std::min(budget->tokens, share->tokens);
  if (shares_rows) most = std::min(most, without_row + std::min(budget->rows, share->rows));
  const int given = PieceTokens(position, prompt->left - prompt->tokens, most, must_move);
  prompt->tokens += given;
  const int rows = shares_rows ? std::max(given - without_row, 0) : 0;
  for (StepPlan::Budget* from : {budget, share}) {
    from->tokens -= given;
    from->rows -= rows;
  }
}

// plan->prompts: in order of admission.
void SharePrompts(const ScheduleInput& input, StepPlan::Budget budget, StepPlan* plan) {
  if (plan->prompts.empty() || budget.tokens == 0) return;
  StepPlan::Budget share = {kBlockTokens, budget.rows};
  Give(&budget, &share, &plan->prompts.front(), /*must_move=*/true);
  std::sort(
      plan->prompts.begin(), plan->prompts.end(),
      [](const StepPlan::Prompt& a, const StepPlan::Prompt& b) { return a.rank.Before(b.rank); });
  double weights = 0;
  plan->shares.assign(input.tenants.size(), {-1, -1});
  for (const StepPlan::Prompt& prompt : plan->prompts) {
    if (plan->shares[prompt.tenant].tokens == 0) continue;
    plan->shares[prompt.tenant] = {0, 0};
    weights += input.tenants[prompt.tenant].weight;
  }
  for (size_t t = 0; t < plan->shares.size(); ++t) {
    if (plan->shares[t].tokens < 0) continue;
    const double part = input.tenants[t].weight / weights;
    plan->shares[t] = {static_cast<int>(budget.tokens * part),
                       static_cast<int>(budget.rows * part)};
  }
  for (StepPlan::Prompt& prompt : plan->prompts) {
    Give(&budget, &plan->shares[prompt.tenant], &prompt);
  }
  share = budget;
  for (StepPlan::Prompt& prompt : plan->prompts) Give(&budget, &share, &prompt);
  for (const StepPlan::Prompt& prompt : plan->prompts) {
    if (prompt.tokens == 0) continue;
    plan->pieces.push_back({prompt.admitted, prompt.index, prompt.tokens});
  }
}

}  // namespace

void StepPlan::Clear() {
  expire_waiting.clear();
  expire_running.clear();
  park.clear();
  admit.clear();
  levels.clear();
  blocked = Blocked::kNothing;
  overtaken.clear();
  pieces.clear();
  prompts.clear();
}

void StepPlan::Reserve(int max_running, int page_classes) {
  expire_running.reserve(max_running);
  park.reserve(kMaxParks);
  admit.reserve(max_running);
  levels.reserve(max_running);
  parkable.reserve(max_running);
  overtaken.reserve(kMaxPassedOver);
  pieces.reserve(max_running);
  prompts.reserve(max_running);
  free.pages.reserve(page_classes);
}

void StepPlan::ReserveWaiting(size_t requests, size_t num_flows, size_t tenants) {
  const auto reserve = [](auto* to, size_t size) {
    if (to->capacity() < size) to->reserve(2 * size);
  };
  reserve(&expire_waiting, requests);
  reserve(&flows, num_flows);
  reserve(&served, tenants);
  reserve(&shares, tenants);
}

void PlanStep(const ScheduleInput& input, StepPlan* plan) {
  PACKRAT_CHECK(input.max_batch_tokens >= input.max_running);
  PACKRAT_CHECK(input.max_logit_rows >= input.max_running);
  plan->Clear();
  Expire(input, plan);
  Admission(input, plan).Run();

  StepPlan::Budget budget = {input.max_batch_tokens, input.max_logit_rows};
  const auto decode = [&](bool admitted, int index) {
    plan->pieces.push_back({admitted, index, 1});
    --budget.tokens;
    --budget.rows;
  };
  for (size_t i = 0; i < input.running.size(); ++i) {
    const RunningItem& item = input.running[i];
    const int index = static_cast<int>(i);
    const bool parked = std::find(plan->park.begin(), plan->park.end(), index) != plan->park.end();
    if (item.deadline <= input.now || item.complete || parked) continue;
    if (item.prompt_left > 0) {
      plan->prompts.push_back({item.rank, item.tenant, item.position, item.prompt_left,
                               item.first_row, false, index, 0});
    } else {
      decode(false, index);
    }
  }
  for (size_t i = 0; i < plan->admit.size(); ++i) {
    const WaitingItem& item = At(input, plan->admit[i]);
    const Flow& flow = input.flows[plan->admit[i].flow];
    const int index = static_cast<int>(i);
    if (item.prompt_left > 0) {
      plan->prompts.push_back({{flow.priority, item.arrival},
                               flow.tenant,
                               item.position,
                               item.prompt_left,
                               item.first_row,
                               true,
                               index,
                               0});
    } else {
      decode(true, index);
    }
  }
  budget.tokens = std::min(budget.tokens, input.max_prompt_tokens);
  for (const StepPlan::Prompt& prompt : plan->prompts) {
    if (!SharesRows(prompt)) --budget.rows;
  }
  SharePrompts(input, budget, plan);
}

}  // namespace packrat
