// A short causal convolution between two gates, as LFM2 has it (transformers' Lfm2ShortConv),
// channel by channel:
//   y_t = out_gate_t (bias + sum_i taps_i z_(t - conv_size + 1 + i)),  z_t = in_gate_t x_t
// with zeros before the text. Without gates it is the convolution alone, for what reads its result
// before anything else does (kernels/rg_lru.h). The tail keeps z as kernels/short_conv.h says.
#ifndef PACKRAT_KERNELS_GATED_CONV_H_
#define PACKRAT_KERNELS_GATED_CONV_H_

#include "absl/status/status.h"
#include "kernels/batch.h"
#include "kernels/context.h"
#include "kernels/gpu.h"
#include "kernels/short_conv.h"

namespace packrat {

struct GatedConvShape {
  int channels;
  int conv_size;  // Taps, the current token's included; kMaxConvSize at most.
};

struct GatedConvWeights {
  const float* taps;  // (conv_size, channels): tap-major, the current token's tap last
  const float* bias;  // (channels) or null
};

struct GatedConvOperands {
  const void* x;         // (tokens, channels)
  const void* in_gate;   // (tokens, channels) or null
  const void* out_gate;  // (tokens, channels) or null
  int stride;            // Elements from row to row of x and the gates.
  DType type;            // Of x and the gates: float32, and on a GPU bfloat16 too.
  void* out;             // (tokens, channels), dense
  DType out_type;
};

absl::Status GatedConv(const GatedConvShape& shape, const GatedConvWeights& weights,
                       const BatchView& batch, const StateParts& tails,
                       const GatedConvOperands& operands, KernelContext* context);

namespace gpu {

absl::Status GatedConv(const GatedConvShape& shape, const GatedConvWeights& weights,
                       const BatchView& batch, const StateParts& tails,
                       const GatedConvOperands& operands, CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_GATED_CONV_H_
