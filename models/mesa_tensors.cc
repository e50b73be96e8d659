#include "models/mesa_tensors.h"

#include <algorithm>
#include <cmath>

namespace packrat {
namespace {

// (channels, 1, taps) as stored to (taps, channels).
std::vector<float> Taps(const std::string& name, int channels, int taps, WeightLoader* weights) {
  const std::vector<float> stored = weights->Floats(name, {channels, 1, taps});
  std::vector<float> out(stored.size());
  for (size_t i = 0; i < stored.size(); ++i) out[i % taps * channels + i / taps] = stored[i];
  return out;
}

}  // namespace

MesaTensors LoadMesaTensors(const MesaSpec& spec, const std::string& prefix,
                            WeightLoader* weights) {
  const int width = spec.num_heads * spec.head_dim;
  MesaTensors t;
  for (auto [name, taps, bias] : {std::tuple{"q_conv1d.", &t.conv_q, &t.conv_q_bias},
                                  std::tuple{"k_conv1d.", &t.conv_k, &t.conv_k_bias}}) {
    *taps = Taps(prefix + name + "weight", width, spec.conv_size, weights);
    const std::string bias_name = prefix + name + "bias";
    if (weights->Has(bias_name)) *bias = weights->Floats(bias_name, {width});
  }
  t.lambda = weights->Floats(prefix + "lambda_params", {width});
  for (float& l : t.lambda) {  // softplus, without overflow
    l = std::max(l, 0.0f) + std::log1p(std::exp(-std::fabs(l))) + spec.lambda_lower_bound;
  }
  t.o_norm = weights->Floats(prefix + "o_norm.weight", {spec.head_dim});
  return t;
}

}  // namespace packrat
