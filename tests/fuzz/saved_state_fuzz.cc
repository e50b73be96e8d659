// Any bytes as a saved state of a model with every kind of layer and several dials: refused with a
// message, or a state that encodes to the same bytes.
#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/check.h"
#include "runtime/saved_state.h"
#include "tests/fuzz/saved_state_bytes.h"

namespace packrat {
namespace {

const StateOwner& Owner() {
  static const StateOwner* const owner = [] {
    ModelConfig config;
    GatedDeltaSpec delta;
    delta.num_key_heads = delta.num_value_heads = 1;
    delta.key_dim = delta.value_dim = 8;
    delta.conv_size = 4;
    Mamba2Spec mamba;
    mamba.num_heads = 1;
    mamba.head_dim = mamba.state_size = 8;
    RatPlusSpec rat_plus;
    rat_plus.num_heads = 1;
    rat_plus.head_dim = 8;
    rat_plus.others = {RatPlusDial{4, 3, 2}, RatPlusDial{16, 0, 0}};
    rat_plus.num_others = 2;
    config.mixers = {RatSpec{2, 1, 8, 16},
                     AttentionSpec{2, 1, 8, 40},
                     AttentionSpec{2, 1, 8, 0},
                     MesaSpec{1, 8, 4, 0.25f, true},
                     delta,
                     mamba,
                     ShortConvSpec{16, 3, false},
                     RgLruSpec{1, 16, 4},
                     rat_plus};
    config.dials = {"1", "4,3,2", "16"};
    return new StateOwner{{"fine", "coarser", "coarsest"},
                          "numerics",
                          StateLayout(config),
                          /*vocab_size=*/101,
                          /*max_context=*/512,
                          /*coarser=*/{{0, 1}, {0, 2}, {1, 2}}};
  }();
  return *owner;
}

void Check(const std::string& bytes) {
  const absl::StatusOr<SavedState> state = DecodeSavedState(bytes, Owner());
  const absl::StatusOr<SavedSize> size = SizeOfSavedState(bytes, Owner());
  if (!state.ok()) {
    PACKRAT_CHECK(absl::IsDataLoss(state.status()) || absl::IsFailedPrecondition(state.status()));
    PACKRAT_CHECK(state.status().message().size() < 4096);  // Not the input, repeated.
    return;
  }
  // No text here needs a header that is refused for its length.
  PACKRAT_CHECK(size.ok() ? size->exact && size->bytes == bytes.size()
                          : bytes.size() > MostHeaderBytes(Owner().max_context));
  if (!state->dropped.empty()) {
    PACKRAT_CHECK(state->position == 0 && state->parts.empty());
    PACKRAT_CHECK(state->dropped.size() < 4096);
    return;
  }
  PACKRAT_CHECK(state->position <= static_cast<int32_t>(state->tokens.size()));
  const std::string encoded = EncodeHeader(*state, Owner()) + state->parts;
  // A text alone may come from another numerics id, which it then has lost.
  PACKRAT_CHECK(encoded == bytes || state->position == 0);
  const absl::StatusOr<SavedState> again = DecodeSavedState(encoded, Owner());
  PACKRAT_CHECK(again->tokens == state->tokens && again->dials == state->dials);
}

}  // namespace
}  // namespace packrat

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(input), size);
  packrat::Check(bytes);
  if (size >= 4) packrat::Check(packrat::WithHashes(bytes));
  return 0;
}
