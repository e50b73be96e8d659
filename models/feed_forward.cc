#include "kernels/elementwise.h"
#include "models/layer.h"

namespace packrat {

FeedForward::FeedForward(const ModelConfig& config, const std::string& prefix,
                         WeightLoader* weights)
    : hidden_size_(config.hidden_size),
      intermediate_size_(config.intermediate_size),
      activation_(config.activation) {
  const int d = hidden_size_, f = intermediate_size_;
  const TensorNames& names = config.names;
  const bool gated = activation_ == Activation::kSwiglu, fused = gated && names.gate == names.up;
  if (gated && !fused) gate_ = weights->Matrix(prefix + names.gate, f, d);
  up_ = weights->MatrixRows(prefix + names.up, fused ? 2 * f : f, d, 0, f);
  if (fused) gate_ = weights->MatrixRows(prefix + names.gate, 2 * f, d, f, f);
  down_ = weights->Matrix(prefix + names.down, d, f);
}

void FeedForward::Forward(const Step& step, const float* h, float* x) {
  const int tokens = step.batch.num_tokens, f = intermediate_size_;
  float *up = step.activations, *inner = up;
  absl::Status status;
  if (activation_ == Activation::kSwiglu) {
    MatMul(h, hidden_size_, tokens, {{&gate_, up, 2 * f}, {&up_, up + f, 2 * f}}, step.context);
    inner = up + size_t{2} * tokens * f;
    status = SwiGlu(up, tokens, f, inner, DType::kF32, step.context);
  } else {
    MatMul(h, hidden_size_, tokens, {{&up_, up, f}}, step.context);
    status = Gelu(up, tokens, f, DType::kF32, step.context);
  }
  PACKRAT_CHECK(status.ok());
  MatMul(inner, f, tokens, {{&down_, x, hidden_size_, nullptr, /*accumulate=*/true}}, step.context);
}

}  // namespace packrat
