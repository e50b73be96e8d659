#include "models/feed_forward.h"

#include <vector>

namespace packrat {

FeedForward::FeedForward(const ModelConfig& config, const std::string& prefix, const Device& device,
                         DeviceWeights* weights)
    : width_(config.intermediate_size),
      activation_(config.activation),
      gating_{activation_ == Activation::kGeglu ? GateFunction::kGeluTanh : GateFunction::kSilu,
              config.gate_scale},
      type_(device.type()) {
  const int d = config.hidden_size, f = width_;
  const TensorNames& names = config.names;
  std::vector<DeviceWeights::Rows> parts;
  if (!IsGated(activation_)) {
    parts = {{prefix + names.up, f}};
  } else if (names.gate == names.up && names.gate_first) {
    parts = {{prefix + names.up, 2 * f}};
  } else if (names.gate == names.up) {
    parts = {{prefix + names.up, 2 * f, f, f}, {prefix + names.up, 2 * f, 0, f}};
  } else {
    parts = {{prefix + names.gate, f}, {prefix + names.up, f}};
  }
  up_ = weights->Stack(parts, d);
  down_ = weights->Matrix(prefix + names.down, d, f);
  if (!config.feed_forward_bias) return;
  up_bias_ = weights->Biases(parts);
  down_bias_ = weights->Biases({{prefix + names.down, d}});
}

absl::Status FeedForward::Forward(const Step& step, const Normed& h, const Residual& to) const {
  Device& device = *step.device;
  const int tokens = step.tokens();
  const size_t column_bytes = size_t{1} * tokens * DTypeBytes(type_);
  Carver memory(step.activations);
  void* up = memory.Take<std::byte>(column_bytes * up_.out);
  if (IsGated(activation_)) {
    void* inner = memory.Take<std::byte>(column_bytes * width_);
    return device.AddGlu(h, {up_, up_bias_, gating_, down_, down_bias_}, tokens, up, inner, to);
  }
  absl::Status status = device.MultiplyNormed(h, tokens, {{up_, up, type_, up_bias_}});
  if (!status.ok()) return status;
  status = activation_ == Activation::kGelu ? device.Gelu(up, tokens, width_)
                                            : device.SquaredRelu(up, tokens, width_);
  return status.ok() ? device.AddProduct(down_, up, tokens, down_bias_, to) : status;
}

}  // namespace packrat
