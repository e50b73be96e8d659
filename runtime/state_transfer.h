// Between the pool and bytes outside of it: how a state leaves the process and comes back.
#ifndef PACKRAT_RUNTIME_STATE_TRANSFER_H_
#define PACKRAT_RUNTIME_STATE_TRANSFER_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/saved_state.h"
#include "runtime/sequence_state.h"
#include "runtime/state_pool.h"

namespace packrat {

// The parts of a snapshot: its slot, its tail, its pages by class. What its sequence did not write
// is blank, since others may have left something there. Waits for the steps that were started. An
// error says that the device is lost.
absl::Status ReadParts(const Snapshot& snapshot, StatePool* pool, std::string* bytes);

// A snapshot with the parts of a state, the cache's. RESOURCE_EXHAUSTED: so many parts are not
// there, even if the cache gives up all others.
absl::StatusOr<Snapshot> WriteParts(const SavedState& state, StatePool* pool);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_STATE_TRANSFER_H_
