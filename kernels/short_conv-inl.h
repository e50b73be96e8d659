// The short convolution of sixteen channels, for the CPU's mixers. See kernels/short_conv.h.
//
// Included once per target through hwy/foreach_target.h.
#if defined(PACKRAT_KERNELS_SHORT_CONV_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PACKRAT_KERNELS_SHORT_CONV_INL_H_
#undef PACKRAT_KERNELS_SHORT_CONV_INL_H_
#else
#define PACKRAT_KERNELS_SHORT_CONV_INL_H_
#endif

#include <algorithm>

#include "kernels/short_conv.h"
#include "kernels/vec16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

// One span's input, and that of the positions before it.
struct ConvInput {
  const float* rows;     // Of the span's first token.
  ptrdiff_t stride;      // Floats from row to row.
  const float* history;  // (conv_size - 1, channels)
  const float* taps;     // (conv_size, channels): the current token's tap last
  const float* bias;     // (channels) or null
  int channels, conv_size;
  int position;                 // Of the span's first token.
  const float* gate = nullptr;  // Beside `rows`, which it multiplies; or null.
};

// Channels [channel, channel + 16) of token t's input, of which n are there; zero beyond.
HWY_INLINE V16 ConvInput16(const ConvInput& x, int t, int channel, int n) {
  const ptrdiff_t at = t * x.stride + channel;
  const V16 row = LoadFirst(x.rows + at, n);
  return x.gate != nullptr ? Mul(LoadFirst(x.gate + at, n), row) : row;
}

// The same channels of the convolution, before any activation.
HWY_INLINE V16 Convolve16(const ConvInput& x, int t, int channel, int n) {
  V16 sum = x.bias != nullptr ? LoadFirst(x.bias + channel, n) : Zero();
  for (int tap = 0; tap < x.conv_size; ++tap) {
    const int from = t - (x.conv_size - 1) + tap, position = x.position + from;
    if (position < 0) continue;  // Before the text there are zeros.
    const auto kept = [&]() HWY_ATTR {
      const auto row = static_cast<size_t>(position % (x.conv_size - 1));
      return LoadFirst(x.history + row * x.channels + channel, n);
    };
    sum = MulAdd(LoadFirst(x.taps + static_cast<size_t>(tap) * x.channels + channel, n),
                 from >= 0 ? ConvInput16(x, from, channel, n) : kept(), sum);
  }
  return sum;
}

HWY_INLINE V16 ShortConv16(const ConvInput& x, int t, int channel, int n) {
  return Silu(Convolve16(x, t, channel, n));
}

// Keeps channels [channel, channel + n) of the span's last tokens in `history`, which is
// x.history; after the last convolution of these channels.
HWY_INLINE void KeepConvInput(const ConvInput& x, int num_tokens, int channel, int n,
                              float* history) {
  const int keep = x.conv_size - 1;
  for (int t = std::max(0, num_tokens - keep); t < num_tokens; ++t) {
    const int slot = (x.position + t) % keep;
    float* row = history + static_cast<size_t>(slot) * x.channels + channel;
    for (int d = 0; d < n; d += 16) {
      StoreFirst(ConvInput16(x, t, channel + d, n - d), n - d, row + d);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#endif  // PACKRAT_KERNELS_SHORT_CONV_INL_H_
