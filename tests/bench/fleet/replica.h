// One server of the simulated fleet: the real scheduler over the real counts of state, with steps
// that take the time of a table instead of being computed.
#ifndef PACKRAT_TESTS_BENCH_FLEET_REPLICA_H_
#define PACKRAT_TESTS_BENCH_FLEET_REPLICA_H_

#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "models/state_layout.h"
#include "runtime/scheduler.h"
#include "runtime/state_pool.h"
#include "tests/bench/fleet/histogram.h"
#include "tests/bench/fleet/workload.h"

namespace packrat {

// A call of Generate on its way through the fleet.
struct SimulatedCall {
  int64_t conversation = 0;
  int turn = 0;
  int known_tokens = 0;   // Of the transcript, from earlier turns.
  int prompt_tokens = 1;  // The whole: the server keeps nothing between calls.
  int reply_tokens = 1;
  double arrived = 0;
  // Set by the replica.
  double last_token = 0;
  int done_tokens = 0;
  int computed_prompt = 0;
  PartCounts need;
};

struct ReplicaOptions {
  int max_running = 64;
  int max_queue = 1024;
  int max_batch_tokens = 512;
  PartCounts parts;  // Of the pool: PlanParts().
  // Conversations whose state is kept after their reply, the oldest dropped first: a later turn
  // computes only what is new. 0, as today: nothing is kept.
  int cached_conversations = 0;
};

// What the fleet counts, after its warm-up.
struct FleetCounts {
  Histogram wait;         // From arrival to admission.
  Histogram first_token;  // From arrival to the end of the step that gives it.
  Histogram gap;          // Between tokens of a reply.
  double busy = 0;        // Seconds of steps, of all replicas.
  double state = 0;       // Seconds of steps, weighted by the share of the fullest kind of state.
  int64_t prompt_tokens = 0, reply_tokens = 0, cached_tokens = 0;
};

class Replica {
 public:
  Replica(const StateLayout* layout, const ReplicaOptions& options, const StepTimes* times);

  int outstanding() const { return static_cast<int>(waiting_.size() + running_.size()); }
  bool idle() const { return outstanding() == 0; }
  bool in_step() const { return step_end_ >= 0; }
  double step_end() const { return step_end_; }

  // False: the queue is full.
  bool Submit(std::unique_ptr<SimulatedCall> call);
  // Plans what there is to do; the step ends at step_end().
  void StartStep(double now, FleetCounts* counts);
  // Appends the calls that have ended.
  void EndStep(FleetCounts* counts, std::vector<std::unique_ptr<SimulatedCall>>* ended);

 private:
  using Calls = std::vector<std::unique_ptr<SimulatedCall>>;
  void Admit(double now, FleetCounts* counts);
  void Token(size_t index, FleetCounts* counts);
  double StateShare() const;
  bool TakeCached(int64_t conversation);
  void Keep(int64_t conversation);

  const StateLayout* const layout_;
  const ReplicaOptions options_;
  const StepTimes* const times_;
  PartCounts free_;
  uint64_t next_arrival_ = 0;
  double step_end_ = -1;
  StepPlan plan_;
  // Parallel.
  std::vector<WaitingItem> waiting_;
  Calls waiting_calls_;
  std::vector<RunningItem> running_;
  Calls running_calls_;
  std::vector<int> first_pieces_;  // Running calls whose prompt ends in this step.
  std::vector<int> decoding_;      // Those that decode in it.
  std::list<int64_t> kept_;        // Oldest first.
  std::unordered_map<int64_t, std::list<int64_t>::iterator> kept_at_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_BENCH_FLEET_REPLICA_H_
