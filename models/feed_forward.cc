#include "models/feed_forward.h"

namespace packrat {

FeedForward::FeedForward(const ModelConfig& config, const std::string& prefix, const Device& device,
                         DeviceWeights* weights)
    : width_(config.intermediate_size), activation_(config.activation), type_(device.type()) {
  const int d = config.hidden_size, f = width_;
  const TensorNames& names = config.names;
  if (activation_ == Activation::kGelu) {
    up_ = weights->Matrix(prefix + names.up, f, d);
  } else if (names.gate == names.up) {
    up_ = weights->Stack({{prefix + names.up, 2 * f, f, f}, {prefix + names.up, 2 * f, 0, f}}, d);
  } else {
    up_ = weights->Stack({{prefix + names.gate, f}, {prefix + names.up, f}}, d);
  }
  down_ = weights->Matrix(prefix + names.down, d, f);
}

absl::Status FeedForward::Forward(const Step& step, const Normed& h, float* x) const {
  Device& device = *step.device;
  const int tokens = step.tokens();
  const size_t column_bytes = size_t{1} * tokens * DTypeBytes(type_);
  Carver memory(step.activations);
  void* up = memory.Take<std::byte>(column_bytes * up_.out);
  absl::Status status = device.MultiplyNormed(h, tokens, {{up_, up, type_}});
  if (!status.ok()) return status;
  if (activation_ != Activation::kGelu) {
    void* inner = memory.Take<std::byte>(column_bytes * width_);
    return device.AddSwiGluProduct(down_, up, tokens, inner, x);
  }
  status = device.Gelu(up, tokens, width_);
  return status.ok() ? device.AddProduct(down_, up, tokens, x) : status;
}

}  // namespace packrat
