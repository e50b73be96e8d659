// The engine: takes requests, asks the scheduler what to do, runs the model once, which samples,
// publishes and retires. Single-threaded: Step() is called by one thread (EngineThread in
// production, the test itself in tests, with its own clock). Submit(), Cancel(), Drain(),
// AbortAll(), ForgetOrigin(), Wake(), WaitForWork(), idle(), failure(), stats() and progress() may
// be called by any thread; they hold the only lock for as long as a swap takes.
#ifndef PACKRAT_RUNTIME_ENGINE_H_
#define PACKRAT_RUNTIME_ENGINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "models/bounds.h"
#include "models/model.h"
#include "models/text/tokenizer.h"
#include "runtime/bucket_counts.h"
#include "runtime/outbox.h"
#include "runtime/request.h"
#include "runtime/saved_state.h"
#include "runtime/scheduler.h"
#include "runtime/state_pool.h"
#include "runtime/state_tiers.h"
#include "runtime/validate.h"

namespace packrat {

struct EngineOptions {
  int max_running = 64;        // Sequences in a batch.
  int max_queue = 1024;        // Requests that wait.
  int max_batch_tokens = 512;  // Token budget of a step; decoding first. At least max_running.
  // How far apart prompts may put the tokens of those that decode beside them, as far as it can be
  // foretold (StepModel). They get half of a step in any case, and a block.
  absl::Duration inter_token_time = absl::Milliseconds(200);
  int max_context = 0;      // Tokens per sequence; 0: the model's.
  int64_t state_bytes = 0;  // For slots, tails and pages together; 0: enough for max_running
                            // sequences of max_context tokens, but at most what the model's
                            // device has for it (LanguageModel::state_memory_limit()).
  absl::Duration priority_step = absl::Milliseconds(200);  // Waiting time that is worth one level
                                                           // of priority.
  bool prefix_cache = true;  // States of texts are kept for others that begin alike.
  // Parts of the pool for so many states beside max_running sequences; without any, the cache has
  // what these do not use. kAutoCacheSequences: of state_bytes, or of what there is, what those
  // leave; by itself at most three times as much as they take.
  static constexpr int kAutoCacheSequences = -1;
  int cache_sequences = 0;
  // Bytes of the process's memory for states of sequences that make way for others (scheduler.h);
  // 0: none does. kAutoParkMemory: AutoParkMemory(), but of the process's memory at most a
  // sixteenth.
  static constexpr int64_t kAutoParkMemory = -1;
  int64_t park_memory = kAutoParkMemory;
  // Kept states that find no room beside what runs: bytes of the process's memory for them, and
  // from there of files in a folder (empty: none), which this engine alone uses. What is being
  // written or read is in memory too, so that without any there is no folder either. Auto: what
  // StateHostMemory() says (memory_plan.h); for a bare engine, none.
  static constexpr int64_t kAutoHostMemory = -1;
  int64_t state_host_memory = kAutoHostMemory;
  std::string state_dir;
  int64_t state_disk = int64_t{8} << 30;
  bool poison_freed_state = false;  // For tests: fills freed slots, tails and pages with NaNs.
};

namespace bounds {

// Where the model does not set a narrower one.
inline constexpr Bound kMaxRunning = {"max_running", 1, 4096};
inline constexpr Bound kMaxQueue = {"max_queue", 1, 1000000};
inline constexpr Bound kCacheSequences = {"cache_sequences", 0, 1000000};
inline constexpr Bound kMaxBatchTokens = {"max_batch_tokens", 16, 65536};
inline constexpr Bound kMaxContext = {"max_context", 2, kOpen};  // The model's.
inline constexpr absl::Duration kShortestPriorityStep = absl::Milliseconds(1);
inline constexpr absl::Duration kLongestPriorityStep = absl::Hours(1);

}  // namespace bounds

// An eighth of what state takes, but enough for one longest sequence.
int64_t AutoParkMemory(const StateLayout& layout, int64_t state_bytes, int max_context);

// Fills in the defaults that depend on the model and the memory, and checks all: INVALID_ARGUMENT
// names an option and its range. `state_limit`: bytes that state may take if state_bytes is 0.
absl::Status ResolveEngineOptions(const ModelConfig& config, const ModelOptions& model_options,
                                  const StateLayout& layout, int64_t state_limit,
                                  EngineOptions* options);

// Tokens of the texts that the prefix cache remembers, and what they take. Whose state is below the
// pool is remembered as well, so that memory for those comes with some for their texts.
int64_t RememberedTokens(const EngineOptions& options);
inline constexpr int64_t kRememberedTokenBytes = 8;

// A consistent reading of the engine after its last step. Counters only ever grow.
struct EngineStats {
  int waiting = 0;
  int running = 0;
  struct Pool {
    std::string kind;             // "slot", "tail", or the page class's name.
    int64_t total = 0, used = 0;  // used: by sequences that run.
    int64_t bytes_each = 0;
    int64_t cached = 0;  // By the prefix cache alone, which gives way.
    // There are fewer than max_running sequences of max_context could use.
    bool short_of_memory = false;
  };
  std::vector<Pool> pools;
  // How near memory is to being the limit, 0 to 1: the fullest of the pools that are short of it. 0
  // where none is: the limit is max_running then.
  double state_utilization = 0;
  Blocked blocked = Blocked::kNothing;  // What the first that waits for admission waits for.
  int64_t prompt_tokens = 0;            // Computed by the model.
  int64_t generated_tokens = 0;
  int64_t scored_tokens = 0;
  int64_t ended_waiting = 0;  // Requests that were over before they were admitted.
  int64_t steps = 0;
  SolverStats solver;
  float max_residual = 0;  // Of the systems of the last step: SpanStats::max_residual.
  // Summed over steps: waiting for the model, sampling (where the model tells it apart), and
  // everything else inside Step(), during which a device that takes steps ahead goes on working.
  absl::Duration model_time, sample_time, host_time;
  absl::Duration readers_time;  // Between steps, in which readers of tokens ran (woken_readers.h).
  absl::Duration grammar_time;  // Of that, finding which tokens grammars allow.
  int64_t grammar_waits = 0;  // Steps in which that was cut off, and sequences waited for the next.
  // Times in seconds, each counted as it happens, not when its request is over.
  BucketCounts queue_time{kSecondsBounds};  // Submit to admission, or to the end without it.
  BucketCounts time_to_first_token{kSecondsBounds};  // Submit to the first token.
  BucketCounts inter_token_time{kSecondsBounds};     // Between two tokens of a request.
  BucketCounts step_time{kSecondsBounds};            // Of a Step() that had a part in a batch.
  // Time of a batch on the model's device over what was foretold; of those of which it was.
  BucketCounts step_time_ratio{kRatioBounds};
  int max_prompt_tokens = 0;  // Of a step at present, beside those that decode.
  BucketCounts batch_sequences{kBatchSequencesBounds};  // Of a batch.
  BucketCounts batch_tokens{kBatchTokensBounds};        // Of a batch.
  struct Cache {
    int64_t lookups[kNumCacheMisses] = {};  // Requests admitted, by CacheMiss.
    int64_t cached_tokens = 0;              // Of their prompts.
    int64_t snapshots = 0;                  // That are kept.
    int64_t remembered_tokens = 0;          // Of the texts that are remembered.
    int64_t dropped = 0;                    // Snapshots, for room.
  } cache;
  struct Parking {
    int64_t parks = 0, resumes = 0;
    int sequences = 0;                  // That are parked; they count among `waiting`.
    int64_t bytes = 0;                  // That these take.
    BucketCounts time{kSecondsBounds};  // From a park to its end.
  } parking;
  StateTiers::Stats tiers;  // Below the pool.
};

// A state that the engine keeps.
struct KeptState {
  int32_t position = 0;  // After so many tokens of its text; 0: there is none.
  uint64_t state = 0;    // One that is made later of the same text has another number. 0: any.
};
struct StatePiece {
  KeptState from;
  std::string bytes;  // Of its parts (saved_state.h). None where there is no state, or at its end.
};

// Whether the engine has something to do, and how much it has done. Steps only ever grow.
struct EngineProgress {
  bool has_work = false;
  int64_t steps = 0;
};

class Engine {
 public:
  // `model` and `tokenizer` outlive the engine; `tokenizer` may be null (stop strings are then
  // refused). INVALID_ARGUMENT names an option and its range; RESOURCE_EXHAUSTED says that not even
  // one sequence of max_context fits state_bytes, or that the device has not so much, with the plan
  // of its memory. Errors of StateFolder::Open().
  static absl::StatusOr<std::unique_ptr<Engine>> Create(LanguageModel* model,
                                                        const Tokenizer* tokenizer,
                                                        const EngineOptions& options);
  ~Engine();

  // Hands requests over, all or none. Where the first has cache.snapshot_at, the others are queued
  // when it is past that point or over, so that they begin with the state that it has left there;
  // and only so many at a time that it has room beside them. Errors are immediate and leave nothing
  // behind (the outboxes stay silent):
  //   INVALID_ARGUMENT    a field out of range, named with the range; a prompt or prompt +
  //                       max_tokens over max_context; anything that can never fit, with numbers
  //                       more requests than max_queue
  //   RESOURCE_EXHAUSTED  the queue is full; or the system refuses the memory that it takes. Where
  //                       that happens later, or the model's device has none for its sampling, the
  //                       request ends with this status (kError)
  //   UNAVAILABLE         draining, or failure()
  absl::Status Submit(std::vector<Request> requests, absl::Time now);
  absl::Status Submit(Request request, absl::Time now);  // One.
  // Whether Submit() would take so many more, as far as their number goes; with its errors.
  absl::Status HasRoom(int requests, absl::Time now) const;

  // The request ends with kCancelled within one step, whatever its state. Unknown ids are ignored
  // (it may just have finished).
  void Cancel(uint64_t id);

  // States leave and come in pieces. Each call is answered once: by the next Step(), which is held
  // up by the copy, by a later one, or the one at this engine's end. A step copies as many pieces
  // as fill kMostPieceBytes, so that more at once wait for the next.
  //
  // A piece of the state that is kept of the longest beginning of a text; or of that one, `which`.
  // RESOURCE_EXHAUSTED: no memory. ABORTED: it is not kept any more. UNAVAILABLE: as Submit().
  using SharedText = std::shared_ptr<const std::vector<int32_t>>;
  void ReadState(StateSpace space, SharedText text, KeptState which, int64_t at, int64_t size,
                 std::function<void(absl::StatusOr<StatePiece>)> done);
  // The next piece of a state that comes under a number of NewStateNumber(); `at` 0 begins it. It
  // takes parts of the pool as it comes, and gives way to what runs. RESOURCE_EXHAUSTED: no memory,
  // or no room in the pool. ABORTED: it has had to give way. FAILED_PRECONDITION: prefix_cache is
  // off. UNAVAILABLE: as Submit(). After an error nothing is left of it.
  void WriteState(uint64_t number, int32_t position, int32_t dial, int64_t at, std::string bytes,
                  std::function<void(absl::Status)> done);
  // All of it has come: what begins like its text, which this one begins with, goes on from it, as
  // long as the prefix cache keeps it, for who stands at `end` (none: for anybody). ABORTED: nobody
  // does, or as above. UNAVAILABLE: as above.
  void KeepState(uint64_t number, StateSpace space, SharedText text,
                 std::function<void(absl::Status)> done, SeenTextEnd end = {});
  void DropState(uint64_t number);  // What has come of it, if it was not kept.
  static uint64_t NewStateNumber();
  // Drops all that is kept of an origin (StateSpace), from the next Step() on.
  void ForgetOrigin(uint64_t origin);

  // No new requests from now on; what is queued and running goes on.
  void Drain();
  // Ends everything that still waits or runs with this status (kError).
  void AbortAll(absl::Status status);

  // One step at time `now`, which deadlines are compared with; what passes inside of the step is
  // measured and added to it. False where there was nothing to do.
  bool Step(absl::Time now);

  // Blocks until there is something to do, `timeout` has passed or Wake() is called.
  void WaitForWork(absl::Duration timeout);
  void Wake();
  bool idle() const;  // Nothing waits or runs.

  // UNAVAILABLE, with the reason, once the model's device is lost. All that waited or ran has ended
  // with this status, and so does what comes.
  absl::Status failure() const;

  EngineStats stats() const;
  // Why the folder of states failed last, if it has since the last call. What was to be kept there
  // is dropped, and computed again where it is needed.
  absl::Status TakeStateTrouble();
  // For a watchdog: takes no lock, since a step that hangs may hold it.
  EngineProgress progress() const;
  const EngineOptions& options() const;   // With defaults resolved.
  const RequestLimits& limits() const;    // Of the requests that it takes.
  const PartCounts& state_parts() const;  // That its pool has.

  // Checks that the pool's books agree with what the sequences hold. On the thread of Step().
  absl::Status CheckIntegrity() const;

  struct Impl;

 private:
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_ENGINE_H_
