// The list of mixers: the one place that names every kind. A new kind is a file beside this one and
// a line here; what it does not say of itself (spec.h) does not compile.
#ifndef PACKRAT_MODELS_MIXERS_MIXERS_H_
#define PACKRAT_MODELS_MIXERS_MIXERS_H_

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "models/mixers/attention.h"
#include "models/mixers/gated_delta.h"
#include "models/mixers/mamba2.h"
#include "models/mixers/mesa.h"
#include "models/mixers/rat.h"
#include "models/mixers/rat_plus.h"
#include "models/mixers/rg_lru.h"
#include "models/mixers/short_conv.h"
#include "models/mixers/spec.h"

namespace packrat {

using MixerSpec = std::variant<RatSpec, AttentionSpec, MesaSpec, GatedDeltaSpec, Mamba2Spec,
                               ShortConvSpec, RgLruSpec, RatPlusSpec>;

// All names of `layer_types`.
std::vector<std::string> MixerNames();

// The mixer of layer type `type` from its object; nothing if no kind has that name.
std::optional<MixerSpec> ReadMixer(const std::string& type, JsonFields* fields,
                                   const SharedFields& shared);

inline MixerState StateOf(const MixerSpec& mixer, const StateTypes& types) {
  return std::visit([&](const auto& spec) { return spec.State(types); }, mixer);
}
inline MixerInfo InfoOf(const MixerSpec& mixer) {
  return std::visit([](const auto& spec) { return spec.Info(); }, mixer);
}
inline std::string IdentityOf(const MixerSpec& mixer) {
  return std::visit([](const auto& spec) { return spec.Identity(); }, mixer);
}

inline std::unique_ptr<Mixer> LoadMixer(const MixerSpec& mixer, const MixerLoad& load) {
  return std::visit([&](const auto& spec) { return spec.Load(load); }, mixer);
}

}  // namespace packrat

#endif  // PACKRAT_MODELS_MIXERS_MIXERS_H_
