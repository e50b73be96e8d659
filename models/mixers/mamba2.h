// Mamba-2: a decayed sum of outer products, one decay for each head and token; kernels/mamba2.h.
#ifndef PACKRAT_MODELS_MIXERS_MAMBA2_H_
#define PACKRAT_MODELS_MIXERS_MAMBA2_H_

#include <array>
#include <limits>
#include <memory>
#include <string>

#include "kernels/mamba2.h"
#include "models/layer.h"
#include "models/mixers/spec.h"

namespace packrat {

struct Mamba2Spec {
  int num_heads = 0;
  int num_groups = 1;  // Head j uses B and C of group j / (num_heads / num_groups).
  int head_dim = 0;
  int state_size = 0;
  int conv_size = 4;  // Taps, the current token's included.
  Mamba2Norm norm = Mamba2Norm::kAfterGate;
  int norm_groups = 1;  // Equal parts of num_heads * head_dim channels, each with its own norm.
  bool conv_bias = true;
  bool in_bias = false, out_bias = false;
  float dt_min = 0.0f, dt_max = std::numeric_limits<float>::infinity();
  // Factors of what in_proj makes: of z, x, B, C and dt. They go into taps and activations, never
  // into matrices.
  float gate_scale = 1.0f, x_scale = 1.0f, b_scale = 1.0f, c_scale = 1.0f, dt_scale = 1.0f;

  static constexpr std::array kNames{"mamba2"};
  static Mamba2Spec Read(const std::string& type, JsonFields* fields, const SharedFields& shared);
  // Refuses sizes that do not go together, under the names that the fields have.
  struct Names {
    const char *num_heads, *num_groups, *head_dim, *state_size;
  };
  void Check(JsonFields* fields, const Names& names) const;
  // A pair of limits of dt. transformers writes an infinite one as Infinity, which ParseJson()
  // turns into a string, and since 5.19 as {"__float__": "Infinity"}.
  void ReadStepLimits(JsonFields* fields, const std::string& name);
  MixerState State(const StateTypes& types) const;
  MixerInfo Info() const;
  std::string Identity() const;
  std::unique_ptr<Mixer> Load(const MixerLoad& load) const;

  Mamba2Shape shape() const { return {num_heads, num_groups, head_dim, state_size, conv_size}; }
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_MIXERS_MAMBA2_H_
