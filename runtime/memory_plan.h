// Where the memory of a server goes whose model computes on the CPU: planned before any of it is
// taken, so that too little is a refusal at the start, and told to who sizes a container.
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

struct MemoryPlan {
  int64_t limit = 0;  // What the process may hold at most, in bytes as all here...
  std::string limit_source;
  int64_t weights = 0;
  int64_t scratch = 0;
  int64_t process = 0;     // The rest of the process, with the calls that it may have open.
  int64_t state_room = 0;  // What state may take...
  int64_t state = 0;       // ...and what the pool of these options takes of it.
  // As it runs, with the page cache that keeps the program's own code at hand.
  int64_t Total() const { return weights + scratch + process + state; }
  int64_t Request() const;

  EngineOptions options;  // With defaults resolved; of state_bytes the pool takes `state`.
  std::optional<StateLayout> layout;
  PartCounts parts;  // Of the pool.
};

// `calls`: that may be open at once, the waiting ones included. Errors leave in `plan` what is
// known by then: INVALID_ARGUMENT names an option and its range; RESOURCE_EXHAUSTED says where the
// memory goes, what the limit is, and what would fit.
absl::Status PlanMemory(const ModelMemory& model, const ModelOptions& model_options,
                        const EngineOptions& options, int calls, const Resources& resources,
                        MemoryPlan* plan);

// Sequences of `tokens` tokens that a pool of these parts holds at once.
int SequencesOf(const StateLayout& layout, const PartCounts& parts, int64_t tokens);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_MEMORY_PLAN_H_
