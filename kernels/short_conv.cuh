// The short convolution of one channel, for the GPU's mixers. See kernels/short_conv.h.
#ifndef PACKRAT_KERNELS_SHORT_CONV_CUH_
#define PACKRAT_KERNELS_SHORT_CONV_CUH_

#include "kernels/device.cuh"
#include "kernels/short_conv.h"

namespace packrat::gpu {

// A batch's input, and what one tail keeps of it.
struct ConvInput {
  const void* rows;  // (tokens, channels) of the batch
  int stride;        // Elements from row to row.
  DType type;
  float* history;     // (conv_size - 1, channels)
  const float* taps;  // (conv_size, channels): the current token's tap last
  const float* bias;  // (channels) or null
  int channels, conv_size;
  const void* gate = nullptr;  // Beside `rows`, which it multiplies; or null.
};

// One channel of the input at batch row `row`.
__device__ __forceinline__ float ConvValue(const ConvInput& x, int channel, int row) {
  const size_t at = static_cast<size_t>(row) * x.stride + channel;
  const float value = LoadValue(x.rows, at, x.type);
  return x.gate != nullptr ? LoadValue(x.gate, at, x.type) * value : value;
}

// One channel of the convolution at batch row `row`, before any activation, at `position` of a text
// whose rows in the batch begin at position `first`. ring: position % (conv_size - 1), 0 for a
// single tap.
__device__ __forceinline__ float Convolve(const ConvInput& x, int channel, int row, int position,
                                          int first, int ring) {
  float sum = x.bias != nullptr ? x.bias[channel] : 0.0f;
  for (int tap = 0; tap < x.conv_size; ++tap) {
    const int back = x.conv_size - 1 - tap, from = position - back;
    const int slot = ring - back + (back > ring ? x.conv_size - 1 : 0);  // from % (conv_size - 1)
    if (from < 0) continue;  // Before the text there are zeros.
    const float in = from >= first ? ConvValue(x, channel, row - back)
                                   : x.history[static_cast<size_t>(slot) * x.channels + channel];
    sum = fmaf(x.taps[static_cast<size_t>(tap) * x.channels + channel], in, sum);
  }
  return sum;
}

__device__ __forceinline__ float ShortConv(const ConvInput& x, int channel, int row, int position,
                                           int first, int ring) {
  return Silu(Convolve(x, channel, row, position, first, ring));
}

// Keeps a channel's input at `position`, which is that of batch row `row`.
__device__ __forceinline__ void KeepConvInput(const ConvInput& x, int channel, int row,
                                              int position) {
  x.history[static_cast<size_t>(position % (x.conv_size - 1)) * x.channels + channel] =
      ConvValue(x, channel, row);
}

// Keeps what the next tokens after a span need, of each `step`th channel from `first` on.
__device__ __forceinline__ void KeepConvInputs(const ConvInput& x, const BatchSpan& span, int first,
                                               int step) {
  for (int t = max(0, span.num_tokens - (x.conv_size - 1)); t < span.num_tokens; ++t) {
    for (int channel = first; channel < x.channels; channel += step) {
      KeepConvInput(x, channel, span.first_token + t, span.position + t);
    }
  }
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_SHORT_CONV_CUH_
