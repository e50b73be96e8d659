// A text with the state of its first tokens, as bytes that outlive the process: what a session is
// saved as, moved as to another replica, and kept as on disk.
//
//   prefix   magic (8 bytes), format version (4), bytes of the header (4), hash of the header (8)
//   header   whose state it is, the text, how far the state has come, hash of the parts
//   parts    the state, see SavedState::parts
//
// Of a text with finer dials before its last one the version is one more, and the header ends with
// them.
//
// Numbers are little endian. The hash finds damage, not forgery: whoever may write such bytes can
// make the model say anything after that text, so they never count as state of somebody else's
// text.
#ifndef PACKRAT_RUNTIME_SAVED_STATE_H_
#define PACKRAT_RUNTIME_SAVED_STATE_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "models/batch.h"
#include "models/bytes_hash.h"
#include "models/model.h"
#include "models/state_layout.h"
#include "runtime/sequence_state.h"
#include "runtime/text_dials.h"

namespace packrat {

// The model that a state belongs to. Another one could not go on from it, or with other bits.
struct StateOwner {
  std::vector<std::string> fingerprints;  // LanguageModel::fingerprints().
  std::string numerics_id;                // LanguageModel::numerics_id().
  StateLayout layout;
  int32_t vocab_size = 0;
  int32_t max_context = 0;  // Tokens of the longest text that is taken.
  // Dials, each with another one that a text of it may go on with (CheckCoarser()).
  std::set<std::pair<int32_t, int32_t>> coarser;
};
StateOwner OwnerOf(const LanguageModel& model);

struct SavedState {
  std::vector<int32_t> tokens;  // The text.
  std::vector<int32_t> turns;   // Where turns of a conversation end: tokens before, increasing.
  absl::Duration ttl;           // Of the session; 0: it says none.
  uint64_t origin = 0;          // See StateSpace.
  SolverOptions solver;         // With which the state came to be, or the text goes on...
  TextDials dials;              // ...and with which dials.
  int32_t position = 0;         // The state is that after so many tokens; 0: there is none.
  // Of the snapshot at that position (sequence_state.h): its slot, its tail, its pages by class.
  std::string parts;
  // Where a text that was saved with its state comes without it: why. It is not saved.
  std::string dropped;
};

// Of SavedState::parts, in the layout of its dial.
size_t SavedPartBytes(const StateLayout& layout, int32_t position);

// At most, of what comes before the parts of a text of so many tokens.
size_t MostHeaderBytes(int32_t tokens);

// The engine copies a state in pieces of so many bytes, between two steps; and whoever moves one
// holds a piece or two of it.
inline constexpr int64_t kMostPieceBytes = int64_t{8} << 20;

// Of parts that are somewhere else.
struct PartsSeal {
  uint64_t bytes = 0;
  uint64_t hash = BytesHash().Value();
};

// What comes before `parts`: both together are the saved bytes.
std::string EncodeHeader(const SavedState& state, const StateOwner& owner);
// Of a state whose parts are not in it.
std::string EncodeHeader(const SavedState& state, const PartsSeal& parts, const StateOwner& owner);

struct SavedSize {
  size_t bytes = 0;
  bool exact = false;  // Else at least so many.
};
// How many bytes it is of which these are the first, so that whoever reads them knows what it
// takes. Errors of DecodeSavedState(), as far as these bytes show them. DATA_LOSS also for a text
// much longer than this server takes.
absl::StatusOr<SavedSize> SizeOfSavedState(absl::string_view beginning, const StateOwner& owner);

struct SavedHeader {
  SavedState state;  // Without its parts; `dropped` says whether they can be of use.
  size_t end = 0;    // Bytes.
  PartsSeal parts;   // That follow.
};
// Of bytes that have all of it. Errors of DecodeSavedState().
absl::StatusOr<SavedHeader> DecodeHeader(absl::string_view bytes, const StateOwner& owner);
// DATA_LOSS: what came in the place of a header's parts is something else.
absl::Status CheckParts(const PartsSeal& header, uint64_t bytes, const BytesHash& hash);

// DATA_LOSS: the bytes are cut, damaged or something else. FAILED_PRECONDITION: of another version
// or model, or a text longer than this server takes; the message has both. A state of another
// numerics id or layout is dropped, since the text can be computed anew; one of a dial that the
// model has here is of this model.
absl::StatusOr<SavedState> DecodeSavedState(std::string bytes, const StateOwner& owner);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SAVED_STATE_H_
