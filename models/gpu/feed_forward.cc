#include "kernels/elementwise.h"
#include "models/gpu/layer.h"

namespace packrat::gpu {

FeedForward::FeedForward(const ModelConfig& config, const std::string& prefix,
                         DeviceWeights* weights)
    : intermediate_size_(config.intermediate_size), activation_(config.activation) {
  const int d = config.hidden_size, f = intermediate_size_;
  const TensorNames& names = config.names;
  const bool gated = activation_ == Activation::kSwiglu, fused = gated && names.gate == names.up;
  up_ = weights->NewMatrix(gated ? 2 * f : f, d);
  if (gated && !fused) weights->Fill(up_, 0, prefix + names.gate, f);
  weights->Fill(up_, gated ? f : 0, prefix + names.up, fused ? 2 * f : f, 0, f);
  if (fused) weights->Fill(up_, 0, prefix + names.gate, 2 * f, f, f);
  down_ = weights->Load(prefix + names.down, d, f);
}

absl::Status FeedForward::Forward(const Step& step, const void* h, float* x) const {
  const int tokens = step.batch.num_tokens, f = intermediate_size_;
  const size_t row = static_cast<size_t>(tokens) * DTypeBytes(step.type);
  Carver activations(step.activations);
  auto* up = activations.Take<std::byte>(row * up_.out);
  std::byte* inner = up;
  absl::Status status = step.Multiply(up_, h, up);
  if (!status.ok()) return status;
  if (activation_ == Activation::kGelu) {
    status = Gelu(up, tokens, f, step.type, step.stream);
  } else {
    inner = activations.Take<std::byte>(row * f);
    status = SwiGlu(up, tokens, f, inner, step.type, step.stream);
  }
  if (!status.ok()) return status;
  return step.Accumulate(down_, inner, x);
}

}  // namespace packrat::gpu
