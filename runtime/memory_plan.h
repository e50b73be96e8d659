// Where the memory of a server goes whose model computes on the CPU. It is planned before any of it
// is taken, so that a server with too little refuses to start, and shown to whoever sizes a
// container.
#ifndef PACKRAT_RUNTIME_MEMORY_PLAN_H_
#define PACKRAT_RUNTIME_MEMORY_PLAN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/resources.h"
#include "models/model.h"
#include "models/state_layout.h"
#include "runtime/engine.h"
#include "runtime/state_pool.h"

namespace packrat {

// What clients may have under way.
struct CallLimits {
  int calls = 0;                // That are open at once, the waiting ones included.
  int64_t largest_message = 0;  // Bytes.
  int64_t session_bytes = 0;    // SessionOptions::Bytes(), and what the calls about them hold.
};

// Measured, with some room: a call that waits or runs takes 20 to 25 KB in gRPC and in the engine.
inline constexpr int64_t kCallBytes = 24 << 10;

// Bytes that messages which have not come whole may hold together, where the process may hold
// `limit`: a sixteenth of that and at most 512 MiB, but always room for two of the largest.
int64_t MessageBytes(int64_t limit, int64_t largest_message);

// What sessions that are being saved and loaded may hold together, beside these for messages: a
// quarter of them.
int64_t TransferBytes(int64_t message_bytes);

// What auto is for EngineOptions::state_host_memory. Where the model computes on the CPU the pool
// is the process's memory itself, and holds states ready for use: so nothing, but for a folder as
// much as keeps its threads busy. With a GPU an eighth of the process's memory, at most 4 GiB.
int64_t StateHostMemory(const EngineOptions& options, const Resources& resources, bool on_gpu);

struct MemoryPlan {
  // All in bytes.
  int64_t limit = 0;         // What the process may hold at most...
  std::string limit_source;  // ...and what says so.
  int64_t weights = 0;
  int64_t scratch = 0;
  // The rest of the process, with calls and sessions that it may have open and texts that it
  // remembers.
  int64_t process = 0;
  int64_t messages = 0;    // MessageBytes() of `limit`.
  int64_t transfers = 0;   // TransferBytes() of these.
  int64_t grammars = 0;    // GrammarBytes() of the model's vocabulary.
  int64_t state_room = 0;  // What state may take...
  int64_t state = 0;       // ...and what the pool of these options takes of it.
  int64_t parked = 0;      // What sequences may take that have made way for others.
  int64_t kept = 0;        // What states that are kept may take beside the pool.
  int64_t Total() const {
    return weights + scratch + process + messages + transfers + grammars + state + parked + kept;
  }
  // What a container asks for: the smallest limit under which a server takes as much state. Less
  // than Total() where that has more for messages.
  int64_t Request() const;

  // With defaults resolved; of state_bytes the pool takes `state`, park_memory is `parked`, and
  // state_host_memory is `kept`.
  EngineOptions options;
  std::optional<StateLayout> layout;
  PartCounts parts;  // Of the pool.
  CallLimits calls;
};

// Errors leave in `plan` what is known by then: INVALID_ARGUMENT names an option and its range;
// RESOURCE_EXHAUSTED says where the memory goes, what the limit is, and what would fit.
absl::Status PlanMemory(const ModelMemory& model, const ModelOptions& model_options,
                        const EngineOptions& options, const CallLimits& calls,
                        const Resources& resources, MemoryPlan* plan);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_MEMORY_PLAN_H_
