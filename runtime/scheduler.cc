#include "runtime/scheduler.h"

#include <algorithm>

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

void Subtract(const PartCounts& need, PartCounts* free) {
  free->slots -= need.slots;
  free->tails -= need.tails;
  for (size_t c = 0; c < need.pages.size(); ++c) free->pages[c] -= need.pages[c];
}

void Expire(const ScheduleInput& input, StepPlan* plan) {
  for (size_t i = 0; i < input.running.size(); ++i) {
    if (input.running[i].deadline <= input.now) plan->expire_running.push_back(i);
  }
  if (input.now < input.earliest_waiting_deadline) return;
  for (size_t i = 0; i < input.waiting.size(); ++i) {
    if (input.waiting[i].deadline <= input.now) plan->expire_waiting.push_back(i);
  }
}

// The parts of what expires in this step are free in the next.
void Admit(const ScheduleInput& input, StepPlan* plan) {
  plan->free.slots = input.free->slots;
  plan->free.tails = input.free->tails;
  plan->free.pages.assign(input.free->pages.begin(), input.free->pages.end());
  const int places = input.max_running - static_cast<int>(input.running.size());
  for (size_t i = 0; i < input.waiting.size(); ++i) {
    const WaitingItem& item = input.waiting[i];
    if (item.deadline <= input.now) continue;
    if (static_cast<int>(plan->admit.size()) >= places) {
      plan->blocked = Blocked::kMaxRunning;
      break;
    }
    if (!Fits(*item.need, plan->free)) {
      plan->blocked = Blocked::kMemory;
      break;
    }
    Subtract(*item.need, &plan->free);
    plan->admit.push_back(i);
  }
}

// Tokens of a prompt piece. Pieces end at block boundaries or the prompt's end, since blocks are
// what the kernels compute at once; only a piece that would otherwise be empty, and that
// `must_move`, ends inside a block.
int PieceTokens(int position, int left, int budget, bool must_move) {
  if (left <= budget) return left;
  const int end = (position + budget) / kBlockTokens * kBlockTokens;
  if (end > position) return end - position;
  return must_move ? budget : 0;
}

}  // namespace

void StepPlan::Reserve(int max_running, int page_classes) {
  expire_running.reserve(max_running);
  admit.reserve(max_running);
  pieces.reserve(max_running);
  prompts.reserve(max_running);
  free.pages.reserve(page_classes);
}

void PlanStep(const ScheduleInput& input, StepPlan* plan) {
  PACKRAT_CHECK(input.max_batch_tokens >= input.max_running);
  plan->expire_waiting.clear();
  plan->expire_running.clear();
  plan->admit.clear();
  plan->blocked = Blocked::kNothing;
  plan->pieces.clear();
  plan->prompts.clear();
  Expire(input, plan);
  Admit(input, plan);

  int budget = input.max_batch_tokens;
  for (size_t i = 0; i < input.running.size(); ++i) {
    const RunningItem& item = input.running[i];
    const int index = static_cast<int>(i);
    if (item.deadline <= input.now || item.complete) continue;
    if (item.prompt_left > 0) {
      plan->prompts.push_back({item.rank, item.position, item.prompt_left, false, index});
    } else {
      plan->pieces.push_back({false, index, 1});
      --budget;
    }
  }
  for (size_t i = 0; i < plan->admit.size(); ++i) {
    const WaitingItem& item = input.waiting[plan->admit[i]];
    plan->prompts.push_back({item.rank, 0, item.prompt_tokens, true, static_cast<int>(i)});
  }
  std::sort(
      plan->prompts.begin(), plan->prompts.end(),
      [](const StepPlan::Prompt& a, const StepPlan::Prompt& b) { return a.rank.Before(b.rank); });
  bool moved = false;
  for (const StepPlan::Prompt& prompt : plan->prompts) {
    if (budget == 0) break;
    const int tokens = PieceTokens(prompt.position, prompt.left, budget, !moved);
    if (tokens == 0) continue;
    plan->pieces.push_back({prompt.admitted, prompt.index, tokens});
    budget -= tokens;
    moved = true;
  }
}

}  // namespace packrat
