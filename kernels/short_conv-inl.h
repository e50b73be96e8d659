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
  int position;  // Of the span's first token.
};

// Channels [channel, channel + 16) of token t of the span, of which n are there; zero beyond.
HWY_INLINE V16 ShortConv16(const ConvInput& x, int t, int channel, int n) {
  V16 sum = x.bias != nullptr ? LoadFirst(x.bias + channel, n) : Zero();
  for (int tap = 0; tap < x.conv_size; ++tap) {
    const int from = t - (x.conv_size - 1) + tap, position = x.position + from;
    if (position < 0) continue;  // Before the text there are zeros.
    const float* row =
        from >= 0 ? x.rows + from * x.stride
                  : x.history + static_cast<size_t>(position % (x.conv_size - 1)) * x.channels;
    sum = MulAdd(LoadFirst(x.taps + static_cast<size_t>(tap) * x.channels + channel, n),
                 LoadFirst(row + channel, n), sum);
  }
  return Silu(sum);
}

// Keeps channels [channel, channel + n) of the span's last tokens in `history`, which is
// x.history; after the last ShortConv16() of these channels.
HWY_INLINE void KeepConvInput(const ConvInput& x, int num_tokens, int channel, int n,
                              float* history) {
  const int keep = x.conv_size - 1;
  for (int t = std::max(0, num_tokens - keep); t < num_tokens; ++t) {
    const int slot = (x.position + t) % keep;
    std::copy_n(x.rows + t * x.stride + channel, n,
                history + static_cast<size_t>(slot) * x.channels + channel);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#endif  // PACKRAT_KERNELS_SHORT_CONV_INL_H_
