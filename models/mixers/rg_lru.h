// The real-gated linear recurrent unit behind a short convolution, Griffin's mixer beside
// attention; kernels/gated_conv.h, kernels/rg_lru.h.
#ifndef PACKRAT_MODELS_MIXERS_RG_LRU_H_
#define PACKRAT_MODELS_MIXERS_RG_LRU_H_

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "kernels/rg_lru.h"
#include "models/layer.h"
#include "models/mixers/spec.h"

namespace packrat {

struct RgLruSpec {
  int num_heads = 0;  // Whose gates mix their own channels alone.
  int head_dim = 0;
  int conv_size = 0;  // Taps, the current token's included.

  static constexpr std::array kNames{"rg_lru"};
  static RgLruSpec Read(const std::string& type, JsonFields* fields, const SharedFields& shared);
  // The same for fields of other names; a width that is not there is the model's.
  struct Names {
    const char *num_heads, *width, *conv_size;
  };
  static RgLruSpec Read(JsonFields* fields, const Names& names, int hidden_size,
                        const std::optional<RgLruSpec>& fallback);
  MixerState State(const StateTypes& types) const;
  MixerInfo Info() const;
  std::string Identity() const;
  std::unique_ptr<Mixer> Load(const MixerLoad& load) const;

  RgLruShape shape() const { return {num_heads, head_dim}; }
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_MIXERS_RG_LRU_H_
