// A causal convolution over the last few tokens of a text, channel by channel:
//   y_t = bias + sum_i taps_i x_(t - conv_size + 1 + i)
// with zeros before the text; multiply-adds in order of i. Mixers with a state fuse it with silu
// and with what follows (kernels/short_conv-inl.h, kernels/short_conv.cuh); kernels/gated_conv.h is
// the operation by itself.
//
// A tail keeps the inputs at the text's last conv_size - 1 positions: (conv_size - 1, channels),
// row (position mod (conv_size - 1)).
#ifndef PACKRAT_KERNELS_SHORT_CONV_H_
#define PACKRAT_KERNELS_SHORT_CONV_H_

#include <cstddef>

#include "kernels/batch.h"

namespace packrat {

inline constexpr int kMaxConvSize = 16;  // Taps, the current token's included.

// Floats of a tail.
constexpr size_t ShortConvTailFloats(int channels, int conv_size) {
  return static_cast<size_t>(PadTo16((conv_size - 1) * channels));
}

}  // namespace packrat

#endif  // PACKRAT_KERNELS_SHORT_CONV_H_
