// How the state of a text goes on with a coarser dial of RAT+: what that sees no more is dropped,
// and the rest comes to where that has it. Nothing is computed.
#ifndef PACKRAT_MODELS_COARSEN_H_
#define PACKRAT_MODELS_COARSEN_H_

#include <cstddef>

#include "models/config.h"
#include "models/state_layout.h"

namespace packrat {

// Bytes of a state after `position` tokens, of the layout's dial: its slot, its tail, and the pages
// in use (PagesInUse) by class.
size_t StateBytes(const StateLayout& layout, int position);

// From the bytes of a state with dial `from` those with dial `to`, which CheckCoarser() allows:
// StateBytes() of both in the layouts of their dials.
void CoarsenState(const ModelConfig& config, const StateLayout& layout, int from, int to,
                  int position, const std::byte* state, std::byte* coarse);

}  // namespace packrat

#endif  // PACKRAT_MODELS_COARSEN_H_
