// How many texts an engine holds, by their length: what runs at once, and what it keeps of texts
// that may go on later.
#ifndef PACKRAT_RUNTIME_CAPACITY_H_
#define PACKRAT_RUNTIME_CAPACITY_H_

#include <cstdint>
#include <vector>

#include "models/state_layout.h"
#include "runtime/engine.h"
#include "runtime/session.h"
#include "runtime/state_pool.h"

namespace packrat {

// Different texts whose states the prefix cache keeps while nothing runs, by where they are. Texts
// that begin alike share pages, so that there may be more of them.
struct KeptStates {
  int64_t pool = 0, memory = 0, disk = 0;
  int64_t all() const { return pool + memory + disk; }
};

struct Capacity {
  int tokens = 0;              // Of each text.
  int64_t sequence_bytes = 0;  // That its state takes while it runs.
  int64_t sequences = 0;       // That run at once.
  KeptStates kept;
  int64_t idle_sessions = 0;  // Texts of sessions, whose states may have been dropped.
};

// Of a pool of these parts and an engine with these options, defaults resolved.
int SequencesOf(const StateLayout& layout, const PartCounts& parts, int64_t tokens);
KeptStates KeptStatesOf(const StateLayout& layout, const PartCounts& parts,
                        const EngineOptions& options, int tokens);
// For lengths of 256 tokens, then four times as many each, up to the longest.
std::vector<Capacity> CapacityOf(const StateLayout& layout, const PartCounts& parts,
                                 const EngineOptions& options, const SessionOptions& sessions);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_CAPACITY_H_
