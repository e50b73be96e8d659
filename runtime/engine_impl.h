// The inside of the engine: what its thread owns, and what it shares behind the lock. Private to
// engine.cc and the engine_*.cc but for the thread.
#ifndef PACKRAT_RUNTIME_ENGINE_IMPL_H_
#define PACKRAT_RUNTIME_ENGINE_IMPL_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "runtime/engine.h"
#include "runtime/mutex.h"
#include "runtime/outbox.h"
#include "runtime/prefix_cache.h"
#include "runtime/scheduler.h"
#include "runtime/sequence.h"
#include "runtime/state_pool.h"
#include "runtime/state_tiers.h"
#include "runtime/steady_clock.h"
#include "runtime/step_model.h"
#include "runtime/tenants.h"
#include "runtime/validate.h"

namespace packrat {

struct Engine::Impl {
  Impl(LanguageModel* model, const Tokenizer* tokenizer, const EngineOptions& options,
       const RequestLimits& limits, std::unique_ptr<StatePool> pool);
  // What the cache keeps, in the pool and below it.
  absl::Status StartCache();

  absl::Status Submit(std::vector<Request> requests, absl::Time now);
  // Does it between two steps; it is told why where the engine does no more.
  using Task = std::function<void(const absl::Status&)>;
  void Post(Task task);
  struct StateRead {
    StateSpace space;
    Engine::SharedText text;
    KeptState which;
    int64_t at, size;
    std::function<void(absl::StatusOr<StatePiece>)> done;
  };
  // If the state is on the disk, later, once it has been read.
  void ReadState(const StateRead& read, int fetches_left);
  void ForgetOrigins(const absl::Status& status);
  bool Step(absl::Time now);
  absl::Status CheckIntegrity() const;
  // Whether so many requests may join the queue, with the reason if not.
  absl::Status TakesMore(size_t requests, absl::Time now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // The step's time plus what has passed since it began.
  absl::Time Now() const;

  LanguageModel* const model;
  const Tokenizer* const tokenizer;
  const EngineOptions options;
  const RequestLimits limits;

  // What other threads hand over, and what they may read. Sequences are shared pointers from the
  // start: a step in flight keeps those that it computes, and sharing them later would take memory.
  mutable Mutex mutex;
  std::condition_variable wake;
  std::vector<std::shared_ptr<Sequence>> inbox ABSL_GUARDED_BY(mutex);
  std::vector<uint64_t> cancels ABSL_GUARDED_BY(mutex);
  std::vector<Task> tasks ABSL_GUARDED_BY(mutex);
  std::set<uint64_t> forgotten ABSL_GUARDED_BY(mutex);  // Origins; not empty: a task is there.
  std::optional<absl::Status> abort ABSL_GUARDED_BY(mutex);
  bool draining ABSL_GUARDED_BY(mutex) = false;
  bool woken ABSL_GUARDED_BY(mutex) = false;
  bool busy ABSL_GUARDED_BY(mutex) = false;     // Something waits or runs beside the inbox.
  bool reading ABSL_GUARDED_BY(mutex) = false;  // Something waits for the disk.
  // How long the last admitted request had waited, and since when the oldest waiting one waits.
  absl::Duration last_wait ABSL_GUARDED_BY(mutex);
  absl::Time oldest_arrival ABSL_GUARDED_BY(mutex) = absl::InfiniteFuture();
  int waiting_count ABSL_GUARDED_BY(mutex) = 0;  // The inbox included.
  EngineStats published ABSL_GUARDED_BY(mutex);
  std::atomic<bool> has_work{false};  // Written under the lock, read without.
  std::atomic<int64_t> steps_taken{0};
  absl::Status failure ABSL_GUARDED_BY(mutex);  // Written by the engine's thread alone.

  // The rest belongs to the thread that calls Step().
  std::unique_ptr<StatePool> pool;
  std::unique_ptr<StateTiers> tiers;   // Null: none.
  std::unique_ptr<PrefixCache> cache;  // Null: off.
  const PartCounts longest;            // Of a sequence of max_context.
  bool writes_ahead = false;           // Its state goes below the pool in pieces.
  size_t list_bytes = 0;               // Sequence::list_bytes() of all that were admitted.
  int64_t copied_bytes = 0;            // Of states that leave and come, by this step.
  uint64_t next_arrival = 0;
  Tenants tenants;
  // What waits of one tenant at one priority, in order of arrival; the items are parallel, so that
  // the scheduler reads them as they are.
  struct Queue {
    int tenant;
    int priority;
    absl::Time last_admission = absl::InfinitePast();
    std::vector<std::shared_ptr<Sequence>> sequences;
    std::vector<WaitingItem> items;
  };
  std::vector<Queue> waiting;                        // None of them empty.
  std::vector<std::shared_ptr<Sequence>> followers;  // Not queued yet: Sequence::MustWait().
  // Admitted but for a state that is being read. They are in no queue.
  struct Fetching {
    std::shared_ptr<Sequence> sequence;
    WaitingItem item;
    uint64_t state;
    absl::Time since;
  };
  std::vector<Fetching> fetching;
  // What else waits for a state.
  struct DeferredTask {
    uint64_t state;
    Task task;
    absl::Time since;
  };
  std::vector<DeferredTask> deferred;
  int64_t disk_answers = 0;  // StateTiers::answers(), and when it last grew.
  absl::Time disk_answered = absl::InfinitePast();
  absl::Time fetch_from = absl::InfinitePast();  // Before, nobody waits for a disk that is silent.
  absl::Time earliest_waiting_deadline = absl::InfiniteFuture();
  std::vector<std::shared_ptr<Sequence>> running;  // In order of admission.
  // What waits or runs and has not finished. Not Abseil's map: see Tenants.
  std::unordered_map<uint64_t, Sequence*> by_id;
  EngineStats stats;

 private:
  using Clock = std::chrono::steady_clock;

  // A step from its start to its results. A sequence that ends in between is kept until then, and
  // what the step computed for it is dropped.
  struct Flight {
    std::vector<std::shared_ptr<Sequence>> sequences;  // One per span.
    std::vector<int32_t> tokens;
    std::vector<Span> spans;
    std::vector<SamplingRow> rows;  // One per row of logits, in the order of spans.
    StepContents contents;
    double foretold = 0;  // Seconds.
    Clock::time_point started;
  };
  // Where a model takes steps ahead, one step is started before the results of the step before it
  // are taken: the device need not wait for the host.
  static constexpr int kMaxFlights = 2;

  // The phases of a step.
  bool TakeInbox();  // False where nothing came of it.
  // Queues what has been taken, and those followers whose turn it is.
  void EnqueueAll();
  // Those that other threads have posted, as far as the step may be held up.
  void RunTasks(const absl::Status& status);
  void Cancel(uint64_t id);
  void FinishAll(const absl::Status& status);
  void Plan(bool may_park);
  void FindParkable();
  void Park();
  // Sequences that have come to the end of a part of their text with a dial of its own go on with a
  // coarser one. False: there are none.
  bool GoCoarser();
  void GoCoarser(Sequence* sequence, absl::Status* lost);
  bool ParkOne(Sequence* sequence, absl::Status* lost);
  void ReserveQueue(const Sequence& sequence);
  // `unused`: the tokens that its tenant gets back.
  void CountParked(const Sequence& sequence, int64_t unused);
  void QueueParked();
  // Of the step that is being planned, from running_items.
  int MaxPromptTokens() const;
  void Expire();
  void Admit();
  // RESOURCE_EXHAUSTED: this one ends. Another error: the device is lost.
  absl::Status AdmitNew(Sequence* sequence);
  // In the batch, while a step is planned: whom it has parked, and who waits for a state, is still
  // in `running`.
  int FreePlaces() const {
    return options.max_running - static_cast<int>(running.size() - plan.park.size() - diverted);
  }
  // Whether it has to wait for its state, and does so from here on.
  bool MustFetch(const std::shared_ptr<Sequence>& sequence, const WaitingItem& item);
  // Goes on with what need not wait any more, and tells tasks why where the engine does no more.
  // False: there is nothing.
  bool TakeFetched(const absl::Status& status);
  void Requeue(const Fetching& from);
  // A piece of states that go to the disk and come back in pieces; false: none has come.
  bool MovePieces();
  void FindMasks();   // Of sequences with a grammar, as far as there is time for it in a step.
  bool BuildBatch();  // False where nothing is to be computed.
  void SnapIfDue(Sequence* sequence, int num_tokens);
  bool NextStepNeedsResults() const;
  void StartStep();
  void FinishStep();
  void LearnFrom(const Flight& flight);
  // (engine_results.cc)
  void TakeResults(const Flight& flight);
  void TakeScore(Sequence* sequence, const SampledToken& scored);
  void TakeToken(Sequence* sequence, const SampledToken& token);
  void CountTokenTime(const Sequence& sequence, absl::Time now);
  void Fail(const absl::Status& status);
  void Sweep();
  void PublishStats();
  void NotifyAll();
  void GiveWay(absl::Duration step);  // To readers, after a step that took so long.

  // Ends the request where there is no memory for its place in the queue.
  void Enqueue(std::shared_ptr<Sequence> sequence);
  Queue* QueueOf(int tenant, int priority);
  void ReservePlan();
  void SweepWaiting();
  // Goes on, or ends: its bytes are free.
  void CountUnparked(const Sequence& sequence);
  Sequence* At(WaitingIndex index) { return waiting[index.flow].sequences[index.item].get(); }
  void Finish(Sequence* sequence, FinishReason reason, absl::Status status);
  template <class F>
  void ForEach(F visit) {
    for (Queue& queue : waiting) {
      for (auto& sequence : queue.sequences) visit(sequence.get());
    }
    for (auto& sequence : followers) visit(sequence.get());
    for (auto& entry : fetching) visit(entry.sequence.get());
    for (auto& sequence : running) visit(sequence.get());
  }
  void Touch(Sequence* sequence) { touched.push_back(sequence->outbox()); }

  // Made ahead: to end a request takes no memory, of which there may be none.
  const absl::Status cancelled = absl::CancelledError("cancelled");
  const absl::Status late = absl::DeadlineExceededError("the request's deadline has passed");
  const absl::Status not_finite = ToStatus(SampledToken::Status::kNotFinite);
  absl::Time step_time = SteadyNow();
  Clock::time_point step_start = Clock::now();
  absl::Duration time_in_steps;
  absl::Duration admitted_after;                      // How long the last admitted had waited.
  size_t next_mask = 0;                               // In `running`: where FindMasks() begins.
  bool sweep_waiting = false, sweep_running = false;  // Something there has finished or moved.
  // Scratch of a step, kept for its memory.
  std::vector<std::shared_ptr<Sequence>> taken;
  std::vector<uint64_t> taken_cancels;
  std::vector<Task> taken_tasks;  // Also those that have to wait for the next step.
  std::vector<RunningItem> running_items;
  std::vector<PartCounts> frees;  // (max_running) What parking them would give back.
  std::vector<Flow> flows;
  PartCounts free_parts;
  StepPlan plan;
  size_t first_admitted = 0;  // In `running`, of this step.
  size_t diverted = 0;        // Of them, who waits for a state.
  Flight flights[kMaxFlights];
  int first_flight = 0, num_flights = 0;  // In flight: from first_flight on, in a ring.
  StepModel step_model;
  Clock::time_point last_finished;  // When the results of a step last came.
  std::vector<SpanStats> span_stats;
  std::vector<SampledToken> sampled;             // (max_logit_rows)
  std::vector<std::shared_ptr<Outbox>> touched;  // To be notified.
  // Null where a device of its own computes: it goes on while readers run.
  std::shared_ptr<WokenReaders> readers;
  bool readers_are_late = false;
  ReadersTime time_for_readers;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_ENGINE_IMPL_H_
