// What a step does, as a pure function of the queues, the pool's free parts and the time.
//
// The rules:
//  - Order: higher priority first; within a priority first come, first served. Only this order
//    counts: the first that waits is admitted as soon as all that it may need is free, and while it
//    is not, nobody behind it is admitted. A large request at the head therefore waits for running
//    sequences to end, but is never overtaken by small ones of the same or a lower priority; the
//    price is memory that stays unused until it fits. Lower priorities may starve while higher ones
//    keep coming: that is what priorities mean.
//  - Admission takes everything that a sequence may need to its end, so what runs cannot fail for
//    memory and is never evicted.
//  - Every decoding sequence gets its token in every step. What is left of the token budget goes to
//    prompts, in the order above, so a long prompt never makes decoding wait for more than one
//    step of the budget's size.
//  - A request whose deadline has come is expired, waiting or running.
#ifndef PACKRAT_RUNTIME_SCHEDULER_H_
#define PACKRAT_RUNTIME_SCHEDULER_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "runtime/state_pool.h"

namespace packrat {

// A place in the order: higher priority first, then lower arrival number.
struct Rank {
  int priority = 0;
  uint64_t arrival = 0;
  bool Before(const Rank& other) const {
    return priority != other.priority ? priority > other.priority : arrival < other.arrival;
  }
};

struct WaitingItem {
  Rank rank;
  absl::Time deadline;
  int prompt_tokens;
  const PartCounts* need;
};

struct RunningItem {
  Rank rank;
  absl::Time deadline;
  int position;           // Tokens that its state holds once all that was started is done.
  int prompt_left;        // Prompt tokens not yet started; 0: it decodes.
  bool complete = false;  // Nothing is left to start; its last token is on the way.
};

struct ScheduleInput {
  absl::Span<const WaitingItem> waiting;  // In order of rank.
  absl::Span<const RunningItem> running;  // In any order.
  const PartCounts* free = nullptr;
  int max_running = 0;
  int max_batch_tokens = 0;  // At least max_running.
  absl::Time now;
  // No waiting deadline is earlier; spares looking at all of a long queue in every step.
  absl::Time earliest_waiting_deadline = absl::InfinitePast();
};

// Why the first that waits is not admitted: the batch is full, or there is no memory for its state.
enum class Blocked { kNothing, kMaxRunning, kMemory };

// A piece of a sequence's text to compute: a decoding token or prompt tokens.
struct Piece {
  bool admitted;  // `index` is into StepPlan::admit, else into ScheduleInput::running.
  int index;
  int num_tokens;
};

// Reuse one plan, so that planning allocates nothing in the long run.
struct StepPlan {
  std::vector<int> expire_waiting;  // Indices into waiting, ascending.
  std::vector<int> expire_running;  // Indices into running, ascending.
  std::vector<int> admit;           // Indices into waiting, ascending.
  std::vector<Piece> pieces;        // Decoding first.
  Blocked blocked = Blocked::kNothing;

  struct Prompt {
    Rank rank;
    int position, left;
    bool admitted;
    int index;
  };
  std::vector<Prompt> prompts;  // Scratch.
  PartCounts free;              // Scratch.

  void Reserve(int max_running, int page_classes);
};

void PlanStep(const ScheduleInput& input, StepPlan* plan);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SCHEDULER_H_
