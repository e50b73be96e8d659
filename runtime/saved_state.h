// A text with the state of its first tokens, as bytes that outlive the process: what a session is
// saved as, moved as to another replica, and kept as on disk.
//
//   prefix   magic (8 bytes), format version (4), bytes of the header (4), hash of the header (8)
//   header   whose state it is, the text, how far the state has come, hash of the parts
//   parts    the state, see SavedState::parts
//
// Numbers are little endian. The hash finds damage, not forgery: whoever may write such bytes can
// make the model say anything after that text, so they never count as state of somebody else's
// text.
#ifndef PACKRAT_RUNTIME_SAVED_STATE_H_
#define PACKRAT_RUNTIME_SAVED_STATE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/batch.h"
#include "models/model.h"
#include "models/state_layout.h"
#include "runtime/sequence_state.h"

namespace packrat {

// The model that a state belongs to. Another one could not go on from it, or with other bits.
struct StateOwner {
  std::string fingerprint;  // LanguageModel::fingerprint().
  std::string numerics_id;  // LanguageModel::numerics_id().
  StateLayout layout;
  int32_t vocab_size = 0;
  int32_t max_context = 0;  // Tokens of the longest text that is taken.
};
StateOwner OwnerOf(const LanguageModel& model);

struct SavedState {
  std::vector<int32_t> tokens;  // The text.
  std::vector<int32_t> turns;   // Where turns of a conversation end: tokens before, increasing.
  SolverOptions solver;         // With which the state came to be.
  int32_t position = 0;         // The state is that after so many tokens; 0: there is none.
  // Of the snapshot at that position (sequence_state.h): its slot, its tail, its pages by class.
  std::string parts;
};

// Of SavedState::parts.
size_t SavedPartBytes(const StateLayout& layout, int32_t position);

// What comes before `parts`: both together are the saved bytes.
std::string EncodeHeader(const SavedState& state, const StateOwner& owner);

// DATA_LOSS: the bytes are cut, damaged or something else. FAILED_PRECONDITION: of another version,
// model or numerics id, or a text longer than this server takes; the message has both.
absl::StatusOr<SavedState> DecodeSavedState(std::string bytes, const StateOwner& owner);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SAVED_STATE_H_
