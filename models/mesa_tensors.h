// The small tensors of a Mesa layer in the form that the kernels read, for every device.
#ifndef PACKRAT_MODELS_MESA_TENSORS_H_
#define PACKRAT_MODELS_MESA_TENSORS_H_

#include <string>
#include <vector>

#include "models/config.h"
#include "models/weights.h"

namespace packrat {

struct MesaTensors {
  std::vector<float> conv_q, conv_k;            // (conv_size, width)
  std::vector<float> conv_q_bias, conv_k_bias;  // (width), or empty
  std::vector<float> lambda;                    // (width): softplus(lambda_params) + lower bound
  std::vector<float> o_norm;                    // (head_dim)
};

// `prefix`: of tensor names, up to and including the dot.
MesaTensors LoadMesaTensors(const MesaSpec& spec, const std::string& prefix, WeightLoader* weights);

}  // namespace packrat

#endif  // PACKRAT_MODELS_MESA_TENSORS_H_
