// What a step does, as a pure function of the queues, the pool's free parts and the time.
//
// Requests wait in flows: those of one tenant and one priority, first come, first served. The
// rules:
//  - Higher priority first, but waiting counts: a flow gains one level of priority for each
//    `priority_step` that it has been passed over, that is since its last admission or since its
//    first request came, whichever is later. So a flow that is d levels below one that never ends
//    is admitted from once in d * priority_step, however long the other goes on.
//  - Among flows of one priority, tenants take turns: next is the tenant that has been served least
//    for its weight. What counts is prompt tokens and the output that was asked for, less what was
//    not used (see Tenants). One tenant's flood thus costs the others no more than one request of
//    the same size would.
//  - What does not fit yet is passed over, but only by kMaxOvertaken admissions; then nobody is
//    admitted until it fits. So a large request neither keeps memory idle for long nor starves.
//  - Admission takes everything that a sequence may need to its end, so what runs cannot fail for
//    memory.
//  - Who does not fit may have sequences parked for it, lowest rank first: those of lower priority
//    that were admitted at a lower level than it has come to. And once half of its time is over,
//    those of no higher priority with a later deadline, whose tenants have not been served less
//    than its own. So equals never park each other, and what has waited long is not parked at once
//    by who has just come.
//  - A parked sequence waits as a request does, in its place by arrival, and goes on where it
//    stopped. It is parked again only after kParkTokens more, and a step parks kMaxParks at most.
//  - Every decoding sequence gets its token in every step. What is left of the token budget goes to
//    prompts, but at most max_prompt_tokens (StepModel says how many leave the step short enough
//    for those that decode): the one that was admitted first moves in any case, then each tenant
//    gets its share by weight, in order of priority and arrival, and what is left over goes by that
//    order alone.
//  - Rows of logits are a budget beside tokens. One is kept for every sequence that generates; what
//    is left is shared likewise by the prompts whose tokens are scored.
//  - A request whose deadline has come is expired, waiting or running.
#ifndef PACKRAT_RUNTIME_SCHEDULER_H_
#define PACKRAT_RUNTIME_SCHEDULER_H_

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "runtime/state_pool.h"

namespace packrat {

// How many requests may be admitted past one that does not fit.
inline constexpr int kMaxOvertaken = 16;
// Of those that do not fit, so many are looked past in one step.
inline constexpr int kMaxPassedOver = 64;
// A step parks so many at most...
inline constexpr int kMaxParks = 4;
// ...and nobody who has not had so many tokens computed since its (last) admission.
inline constexpr int kParkTokens = 32;

// Of a prompt of which only the last token predicts one.
inline constexpr int kLastToken = std::numeric_limits<int>::max();

// A place in the order of what runs: higher priority first, then lower arrival number.
struct Rank {
  int priority = 0;
  uint64_t arrival = 0;
  bool Before(const Rank& other) const {
    return priority != other.priority ? priority > other.priority : arrival < other.arrival;
  }
};

struct WaitingItem {
  uint64_t arrival;    // Its number in the order of arrival.
  absl::Time arrived;  // Since when it waits.
  absl::Time deadline;
  int position = 0;  // Tokens that its state holds: above 0 it was parked.
  int prompt_left;   // Prompt tokens to compute; 0: it decodes.
  int64_t cost;      // Tokens that its tenant is charged with: prompt and output.
  const PartCounts* need;
  int overtaken = 0;           // Admissions past it while it did not fit.
  int first_row = kLastToken;  // As in RunningItem.
};

// What waits of one tenant at one priority, in order of arrival. Not empty.
struct Flow {
  int tenant;  // Index into ScheduleInput::tenants.
  int priority;
  absl::Time last_admission = absl::InfinitePast();
  absl::Span<const WaitingItem> waiting;
};

struct TenantShare {
  double weight = 1;  // Above 0.
  double served = 0;  // Tokens charged, by weight. Only differences between tenants count.
};

struct RunningItem {
  Rank rank;
  int tenant;  // Index into ScheduleInput::tenants.
  absl::Time deadline;
  int position;           // Tokens that its state holds once all that was started is done.
  int prompt_left;        // Prompt tokens not yet started; 0: it decodes.
  bool complete = false;  // Nothing is left to start; its last token is on the way.
  // From this position on each token of the prompt has a row of logits, and its last in any case.
  int first_row = kLastToken;
  int64_t level = 0;  // At which it was admitted: StepPlan::levels.
  int progress = 0;   // Tokens that were started since.
  int64_t bytes = 0;  // That it would take where it is parked.
  // The parts that would then be free; null: it is not to be parked.
  const PartCounts* frees = nullptr;
};

struct ScheduleInput {
  absl::Span<const Flow> flows;  // In any order; one for a tenant and a priority.
  absl::Span<const TenantShare> tenants;
  absl::Span<const RunningItem> running;  // In order of admission.
  const PartCounts* free = nullptr;
  int max_running = 0;
  int max_batch_tokens = 0;                                 // At least max_running...
  int max_logit_rows = std::numeric_limits<int>::max();     // ...and so is this.
  int max_prompt_tokens = std::numeric_limits<int>::max();  // Above 0.
  absl::Duration priority_step = absl::Milliseconds(200);   // Above 0.
  int64_t park_room = 0;  // Bytes for what is parked; 0: nobody is.
  absl::Time now;
  // No waiting deadline is earlier; spares looking at all of a long queue in every step.
  absl::Time earliest_waiting_deadline = absl::InfinitePast();
};

// Why the first that waits is not admitted: the batch is full, or there is no memory for its state.
enum class Blocked { kNothing, kMaxRunning, kMemory };

// Whether so little of its time is left that it may have others parked.
inline bool IsUrgent(const WaitingItem& item, absl::Time now) {
  return item.deadline < absl::InfiniteFuture() && now - item.arrived >= item.deadline - now;
}

// A request that waits.
struct WaitingIndex {
  int flow;  // Into ScheduleInput::flows.
  int item;  // Into its `waiting`.
};

// A piece of a sequence's text to compute: a decoding token or prompt tokens.
struct Piece {
  bool admitted;  // `index` is into StepPlan::admit, else into ScheduleInput::running.
  int index;
  int num_tokens;
};

// Reuse one plan, so that planning allocates nothing in the long run.
struct StepPlan {
  std::vector<WaitingIndex> expire_waiting;  // Flow by flow, ascending.
  std::vector<int> expire_running;           // Indices into running, ascending.
  std::vector<int> park;            // Indices into running. What they give back, `admit` counts on.
  std::vector<WaitingIndex> admit;  // In order of admission.
  std::vector<int64_t> levels;      // Parallel: priority, and what waiting has added to it.
  struct Overtaken {
    WaitingIndex index;
    int admitted_before;  // Of `admit`: what comes after overtakes it.
  };
  std::vector<Overtaken> overtaken;  // What did not fit where something was admitted past it.
  std::vector<Piece> pieces;         // Decoding first.
  Blocked blocked = Blocked::kNothing;

  // Scratch.
  struct FlowState {
    int next;  // Into its `waiting`: the first that is neither admitted nor passed over.
    absl::Time last_admission;
  };
  std::vector<FlowState> flows;
  std::vector<double> served;  // By tenant.
  std::vector<int> parkable;   // Indices into running, lowest rank first.
  struct Prompt {
    Rank rank;
    int tenant;
    int position, left, first_row;
    bool admitted;
    int index;
    int tokens;  // Given so far.
  };
  std::vector<Prompt> prompts;
  // What a step has left to give. Of rows, those that are not kept for anybody.
  struct Budget {
    int tokens, rows;
  };
  std::vector<Budget> shares;  // By tenant.
  PartCounts free;

  void Clear();  // Nothing is to be done.
  void Reserve(int max_running, int page_classes);
  // For input with so many that wait, flows and tenants: planning itself must not fail.
  void ReserveWaiting(size_t requests, size_t num_flows, size_t tenants);
};

void PlanStep(const ScheduleInput& input, StepPlan* plan);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SCHEDULER_H_
