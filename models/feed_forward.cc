#include "kernels/elementwise.h"
#include "models/layer.h"

namespace packrat {

FeedForward::FeedForward(const ModelConfig& config, const std::string& prefix,
                         WeightLoader* weights)
    : hidden_size_(config.hidden_size),
      intermediate_size_(config.intermediate_size),
      activation_(config.activation) {
  const int d = hidden_size_, f = intermediate_size_;
  if (config.family != Family::kRat) {
    gate_ = weights->Matrix(prefix + "gate_proj.weight", f, d);
    up_ = weights->Matrix(prefix + "up_proj.weight", f, d);
    down_ = weights->Matrix(prefix + "down_proj.weight", d, f);
    return;
  }
  if (activation_ == Activation::kSwiglu) {  // One matrix: the first half up, the second the gate.
    up_ = weights->MatrixRows(prefix + "fc1.weight", 2 * f, d, 0, f);
    gate_ = weights->MatrixRows(prefix + "fc1.weight", 2 * f, d, f, f);
  } else {
    up_ = weights->Matrix(prefix + "fc1.weight", f, d);
  }
  down_ = weights->Matrix(prefix + "fc2.weight", d, f);
}

void FeedForward::Forward(const Step& step, const float* h, float* x) {
  const int tokens = step.batch.num_tokens, f = intermediate_size_;
  float* up = step.scratch->floats.data();
  float* gate = up + static_cast<size_t>(tokens) * f;
  float* inner = up;
  if (activation_ == Activation::kSwiglu) {
    MatMul(h, hidden_size_, tokens, {{&gate_, gate, f}, {&up_, up, f}}, step.context);
    SwiGlu(gate, up, tokens, f, step.context);
    inner = gate;
  } else {
    MatMul(h, hidden_size_, tokens, {{&up_, up, f}}, step.context);
    Gelu(up, tokens, f, step.context);
  }
  MatMul(inner, f, tokens, {{&down_, x, hidden_size_, nullptr, /*accumulate=*/true}}, step.context);
}

}  // namespace packrat
