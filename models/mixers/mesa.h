// Mesa: decayed sums of outer products, read through a linear system; kernels/mesa.h.
#ifndef PACKRAT_MODELS_MIXERS_MESA_H_
#define PACKRAT_MODELS_MIXERS_MESA_H_

#include <array>
#include <string>
#include <vector>

#include "models/mixers/spec.h"
#include "models/weights.h"

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
};

// The small tensors of a layer in the form that the kernels read, for every device.
struct MesaTensors {
  // `prefix`: of tensor names, up to and including the dot.
  MesaTensors(const MesaSpec& spec, const std::string& prefix, WeightLoader* weights);

  std::vector<float> conv_q, conv_k;            // (conv_size, width)
  std::vector<float> conv_q_bias, conv_k_bias;  // (width), or empty
  std::vector<float> lambda;                    // (width): softplus(lambda_params) + lower bound
  std::vector<float> o_norm;                    // (head_dim)
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_MIXERS_MESA_H_
