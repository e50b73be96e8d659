// Between the pool and bytes outside of it: how a state leaves the process and comes back.
#ifndef PACKRAT_RUNTIME_STATE_TRANSFER_H_
#define PACKRAT_RUNTIME_STATE_TRANSFER_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/saved_state.h"
#include "runtime/sequence_state.h"
#include "runtime/state_pool.h"

namespace packrat {

// The parts of a snapshot: its slot, its tail, its pages by class, one after the other. What its
// sequence did not write is blank, since others may have left something there. Waits for the steps
// that were started. An error says that the device is lost.
absl::Status ReadParts(const Snapshot& snapshot, StatePool* pool, std::string* bytes);
// `size` of these bytes, from `at` on.
absl::Status ReadParts(const Snapshot& snapshot, StatePool* pool, size_t at, size_t size,
                       std::string* bytes);

// A snapshot with the parts of a state, the cache's. RESOURCE_EXHAUSTED: so many parts are not
// there, even if the cache gives up all others.
absl::StatusOr<Snapshot> WriteParts(const SavedState& state, StatePool* pool);
// The same in two steps: parts that have anything in them, and their bytes from `at` on.
absl::StatusOr<Snapshot> TakeParts(int position, int dial, StatePool* pool);
// Or in many: one without parts, and from time to time those of its first `end` bytes. Errors as
// above. Nobody may drop the snapshot meanwhile for the room that it takes.
Snapshot SnapshotToCome(int position, int dial, const StatePool& pool);
absl::Status TakePartsTo(size_t end, Snapshot* snapshot, StatePool* pool);
// Whether these would find room.
absl::Status FindRoomTo(size_t end, const Snapshot& snapshot, const StatePool& pool);
void WriteParts(const Snapshot& snapshot, StatePool* pool, size_t at, absl::string_view bytes);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_STATE_TRANSFER_H_
