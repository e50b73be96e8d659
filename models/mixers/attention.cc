#include "models/mixers/attention.h"

#include "absl/strings/str_cat.h"
#include "kernels/attention.h"

namespace packrat {

AttentionSpec AttentionSpec::Read(const std::string& type, JsonFields* fields,
                                  const SharedFields& shared) {
  AttentionSpec attention;
  attention.num_heads = fields->Int("num_heads", 1, kMaxHeads);
  attention.head_dim = EvenHeadDim(fields, "num_heads", attention.num_heads, shared.hidden_size);
  attention.num_kv_heads =
      DivisorOfHeads(fields, "num_kv_heads", attention.num_heads, attention.num_heads);
  attention.rope_base = ReadRopeTheta(fields, shared.rope_base);
  if (type == kNames[1]) attention.window = fields->Int("window_size", 1, kMaxWindow);
  return attention;
}

MixerState AttentionSpec::State(const StateTypes& types) const {
  MixerState state;
  state.page_bytes = AttentionPageFloats(num_kv_heads, head_dim) * DTypeBytes(types.pages);
  state.page_class = {window > 0 ? PageClass::Kind::kWindow : PageClass::Kind::kFull, kBlockTokens,
                      window, 0, 0};
  return state;
}

MixerInfo AttentionSpec::Info() const {
  return {type(), num_heads, head_dim, num_kv_heads, /*chunk_size=*/0, window};
}

std::string AttentionSpec::Identity() const {
  return absl::StrCat(type(), " ", num_heads, " ", window, " ", Exact(rope_base));
}

}  // namespace packrat
