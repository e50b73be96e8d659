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

absl::Status FeedForward::Forward(const Step& step, const void* h, float* x) const {
  const auto rows = static_cast<size_t>(step.tokens()) * DTypeBytes(type_);
  Carver memory(step.activations);
  void* up = memory.Take<std::byte>(rows * up_.out);
  void* inner = up;
  absl::Status status = step.device->Multiply(h, step.tokens(), {{up_, up, type_}});
  if (!status.ok()) return status;
  if (activation_ == Activation::kGelu) {
    status = step.device->Gelu(up, step.tokens(), width_);
  } else {
    inner = memory.Take<std::byte>(rows * width_);
    status = step.device->SwiGlu(up, step.tokens(), width_, inner);
  }
  if (!status.ok()) return status;
  return step.device->AddProduct(down_, inner, step.tokens(), x);
}

}  // namespace packrat
