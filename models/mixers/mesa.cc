#include "models/mixers/mesa.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "kernels/mesa.h"

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

MesaSpec MesaSpec::Read(const std::string&, JsonFields* fields, const SharedFields&) {
  MesaSpec mesa;
  mesa.num_heads = fields->Int("num_heads", 1, kMaxHeads, 16);
  mesa.head_dim = fields->Int("head_dim", 1, kMaxHeadDim, 128);
  mesa.conv_size = fields->Int("conv_size", 1, kMaxConvSize, 4);
  mesa.lambda_lower_bound =
      static_cast<float>(fields->Number("lambda_lower_bound", 0.0, 1e6, 0.25));
  mesa.use_output_gate = fields->Bool("use_output_gate", false);
  if (mesa.num_heads * mesa.head_dim > kMaxHidden) {
    fields->Fail("num_heads", absl::StrCat("is ", mesa.num_heads,
                                           "; num_heads * head_dim must be at most ", kMaxHidden));
  }
  return mesa;
}

MixerState MesaSpec::State(const StateTypes& types) const {
  MixerState state;
  state.slot_bytes = MesaSlotFloats(num_heads, head_dim) * DTypeBytes(types.mesa);
  state.tail_bytes = MesaTailLayout(num_heads, head_dim, conv_size).end * sizeof(float);
  return state;
}

MixerInfo MesaSpec::Info() const { return {kNames[0], num_heads, head_dim}; }

std::string MesaSpec::Identity() const {
  return absl::StrCat(kNames[0], " ", Exact(lambda_lower_bound));
}

MesaTensors::MesaTensors(const MesaSpec& spec, const std::string& prefix, WeightLoader* weights) {
  const int width = spec.num_heads * spec.head_dim;
  for (auto [name, taps, bias] : {std::tuple{"q_conv1d.", &conv_q, &conv_q_bias},
                                  std::tuple{"k_conv1d.", &conv_k, &conv_k_bias}}) {
    *taps = Taps(prefix + name + "weight", width, spec.conv_size, weights);
    const std::string bias_name = prefix + name + "bias";
    if (weights->Has(bias_name)) *bias = weights->Floats(bias_name, {width});
  }
  lambda = weights->Floats(prefix + "lambda_params", {width});
  for (float& l : lambda) {  // softplus, without overflow
    l = std::max(l, 0.0f) + std::log1p(std::exp(-std::fabs(l))) + spec.lambda_lower_bound;
  }
  o_norm = weights->Floats(prefix + "o_norm.weight", {spec.head_dim});
}

}  // namespace packrat
