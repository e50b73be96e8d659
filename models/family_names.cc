#include "models/family_names.h"

#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "models/weights.h"

namespace packrat {
namespace {

// Everything about a mixer that its tensors' shapes do not already tell, for the fingerprint.
std::string DescribeMixer(const MixerSpec& spec) {
  const std::string name = MixerName(spec);
  if (const auto* rat = std::get_if<RatSpec>(&spec)) {
    return absl::StrCat(name, " ", rat->num_heads, " ", rat->chunk_size, " ", rat->rope_base);
  }
  if (const auto* a = std::get_if<AttentionSpec>(&spec)) {
    return absl::StrCat(name, " ", a->num_heads, " ", a->window, " ", a->rope_base);
  }
  return absl::StrCat(name, " ", std::get<MesaSpec>(spec).lambda_lower_bound);
}

}  // namespace

FamilyNames NamesOf(Family family) {
  switch (family) {
    case Family::kRat:
      return {"embedding.wte.weight", "backbone.ln.weight",
              "head.lm_head.weight",  "seq_layer.input_norm.weight",
              "seq_layer.",           "hidden_layer.ln.weight",
              "hidden_layer.",        "backbone.layers."};
    case Family::kMesaNet:
      return {"model.embeddings.weight",
              "model.norm.weight",
              "lm_head.weight",
              "attn_norm.weight",
              "attn.",
              "mlp_norm.weight",
              "mlp.",
              "model.layers."};
    case Family::kPackrat:
      break;
  }
  return {"model.embeddings.weight",
          "model.norm.weight",
          "lm_head.weight",
          "mixer_norm.weight",
          "mixer.",
          "mlp_norm.weight",
          "mlp.",
          "model.layers."};
}

// Shapes follow from the config, so names, shapes and bits say nearly all; the rest is what only
// numbers in the config tell.
std::string Fingerprint(const ModelConfig& config, uint64_t weights_hash) {
  uint64_t hash = weights_hash;
  for (const MixerSpec& spec : config.layers) {
    const std::string text = DescribeMixer(spec);
    hash = HashBytes(hash, text.data(), text.size());
  }
  return absl::StrFormat("%016x", HashBytes(hash, &config.norm_eps, sizeof config.norm_eps));
}

}  // namespace packrat
