#include "models/mixers/rat.h"

#include "absl/strings/str_cat.h"
#include "kernels/rat.h"

namespace packrat {

RatSpec RatSpec::Read(const std::string&, JsonFields* fields, const SharedFields& shared) {
  RatSpec rat;
  rat.num_heads = fields->Int("num_heads", 1, kMaxHeads);
  rat.head_dim = EvenHeadDim(fields, "num_heads", rat.num_heads, shared.hidden_size);
  rat.num_groups = DivisorOfHeads(fields, "num_groups", rat.num_heads, {});
  rat.chunk_size = fields->Int("chunk_size", 1, kMaxChunk);
  rat.rope_base = shared.rope_base;
  return rat;
}

MixerState RatSpec::State(const StateTypes& types) const {
  MixerState state;
  state.page_bytes = RatPageFloats(num_heads, head_dim) * DTypeBytes(types.pages);
  state.page_class = {PageClass::Kind::kRat, chunk_size, 0, 0, 0};
  state.tail_bytes = RatTailFloats(num_heads, head_dim) * sizeof(float);
  return state;
}

MixerInfo RatSpec::Info() const { return {kNames[0], num_heads, head_dim, num_groups, chunk_size}; }

std::string RatSpec::Identity() const {
  return absl::StrCat(kNames[0], " ", num_heads, " ", chunk_size, " ", Exact(rope_base));
}

}  // namespace packrat
