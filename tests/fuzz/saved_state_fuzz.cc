// Any bytes as a saved state: refused with a message, or a state that encodes to the same bytes.
// The input is what the hashes are of, so that the search gets beyond them: the header without what
// it says of the parts, at its end, and after four bytes with the header's length the parts.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "kernels/check.h"
#include "models/weights.h"
#include "runtime/saved_state.h"

namespace packrat {
namespace {

const StateOwner& Owner() {
  static const StateOwner* const owner = [] {
    ModelConfig config;
    config.mixers = {RatSpec{2, 1, 8, 16}, AttentionSpec{2, 2, 8, 40}, AttentionSpec{2, 1, 8, 0},
                     MesaSpec{2, 8, 4, 0.25f, true}};
    return new StateOwner{{"model"},
                          "numerics",
                          StateLayout(config),
                          /*vocab_size=*/101,
                          /*max_context=*/512};
  }();
  return *owner;
}

template <class T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string WithHashes(std::string header, const std::string& parts) {
  header += Raw(static_cast<uint64_t>(parts.size()));
  header += Raw(HashBytes(0, parts.data(), parts.size()));
  const uint32_t version = 2;
  return "PACKRAT\x1a" + Raw(version) + Raw(static_cast<uint32_t>(header.size())) +
         Raw(HashBytes(version, header.data(), header.size())) + header + parts;
}

void Check(const std::string& bytes) {
  const absl::StatusOr<SavedState> state = DecodeSavedState(bytes, Owner());
  if (!state.ok()) {
    PACKRAT_CHECK(absl::IsDataLoss(state.status()) || absl::IsFailedPrecondition(state.status()));
    PACKRAT_CHECK(state.status().message().size() < 4096);  // Not the input, repeated.
    return;
  }
  if (!state->dropped.empty()) {
    PACKRAT_CHECK(state->position == 0 && state->parts.empty());
    PACKRAT_CHECK(state->dropped.size() < 4096);
    return;
  }
  PACKRAT_CHECK(state->position <= static_cast<int32_t>(state->tokens.size()));
  const std::string encoded = EncodeHeader(*state, Owner()) + state->parts;
  // A text alone may come from another numerics id, which it then has lost.
  PACKRAT_CHECK(encoded == bytes || state->position == 0);
  PACKRAT_CHECK(DecodeSavedState(encoded, Owner())->tokens == state->tokens);
}

}  // namespace
}  // namespace packrat

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(input), size);
  packrat::Check(bytes);
  if (size < 4) return 0;
  uint32_t header_bytes;
  std::memcpy(&header_bytes, input, 4);
  const size_t end = 4 + std::min<size_t>(header_bytes, size - 4);
  packrat::Check(packrat::WithHashes(bytes.substr(4, end - 4), bytes.substr(end)));
  return 0;
}
