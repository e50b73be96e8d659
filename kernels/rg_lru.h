// The real-gated linear recurrent unit of Griffin (De et al., arXiv 2402.19427), as transformers
// runs it in recurrent_gemma. Per channel, with x behind a short convolution
// (kernels/gated_conv.h):
//   h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t,  a_t = exp(-rate r_t),  out_t = h_t gelu(gate_t)
//   i_t = sigmoid(x_t W_i + b_i),  r_t = sigmoid(x_t W_r + b_r)
// W_i and W_r mix the channels of one head, gelu is its tanh form, and a text begins with
// h_0 = i_0 x_0.
//
// The gates of a batch's tokens are made first, since they do not depend on h; then each channel of
// a sequence goes through its tokens. All of it is float32. The tail keeps h of the last token,
// (width()).
#ifndef PACKRAT_KERNELS_RG_LRU_H_
#define PACKRAT_KERNELS_RG_LRU_H_

#include <cstddef>

#include "absl/status/status.h"
#include "kernels/batch.h"
#include "kernels/context.h"
#include "kernels/gpu.h"

namespace packrat {

struct RgLruShape {
  int num_heads;
  int head_dim;  // D
  constexpr int width() const { return num_heads * head_dim; }
};

// Floats of a tail.
constexpr size_t RgLruTailFloats(const RgLruShape& s) {
  return static_cast<size_t>(PadTo16(s.width()));
}

struct RgLruWeights {
  const float* input_gate;      // W_i (num_heads, D, D), input channel by output channel
  const float* input_bias;      // b_i (width())
  const float* recurrent_gate;  // W_r (num_heads, D, D)
  const float* recurrent_bias;  // b_r (width())
  const float* rate;            // (width()), positive: 8 softplus(recurrent_param)
};

struct RgLruOperands {
  const float* x;    // (tokens, width()), dense
  const void* gate;  // (tokens, width()), before gelu
  int stride;        // Elements from row to row of gate.
  float* work;       // (2, tokens, width()), written: log a, i x
  void* out;         // (tokens, width()), dense
  DType type;        // Of gate and out: float32, and on a GPU bfloat16 too.
};

absl::Status RgLru(const RgLruShape& shape, const RgLruWeights& weights, const BatchView& batch,
                   const StateParts& tails, const RgLruOperands& operands, KernelContext* context);

namespace gpu {

absl::Status RgLru(const RgLruShape& shape, const RgLruWeights& weights, const BatchView& batch,
                   const StateParts& tails, const RgLruOperands& operands, CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_RG_LRU_H_
