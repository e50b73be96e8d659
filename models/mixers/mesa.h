// Mesa: decayed sums of outer products, read through a linear system; kernels/mesa.h.
#ifndef PACKRAT_MODELS_MIXERS_MESA_H_
#define PACKRAT_MODELS_MIXERS_MESA_H_

#include <array>
#include <memory>
#include <string>

#include "models/layer.h"
#include "models/mixers/spec.h"

namespace packrat {

struct MesaSpec {
  int num_heads = 0;
  int head_dim = 0;
  int conv_size = 0;  // Taps, the current token's included.
  float lambda_lower_bound = 0.0f;
  bool use_output_gate = false;

  static constexpr std::array kNames{"mesa"};
  // Defaults as in flash-linear-attention.
  static MesaSpec Read(const std::string& type, JsonFields* fields, const SharedFields& shared);
  MixerState State(const StateTypes& types) const;
  MixerInfo Info() const;
  std::string Identity() const;
  std::unique_ptr<Mixer> Load(const MixerLoad& load) const;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_MIXERS_MESA_H_
