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
#include <cmath>
#include <type_traits>

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

// A position before a token: its row of input, or the kept one; null before the text, where there
// are zeros.
struct ConvRow {
  const float *row, *gate;
};
HWY_INLINE ConvRow EarlierRow(const ConvInput& x, int from) {
  const int position = x.position + from;
  if (position < 0) return {nullptr, nullptr};
  if (from >= 0) {
    return {x.rows + from * x.stride, x.gate != nullptr ? x.gate + from * x.stride : nullptr};
  }
  return {x.history + static_cast<size_t>(position % (x.conv_size - 1)) * x.channels, nullptr};
}

// Channels [channel, channel + 16) of a row, of which n are there.
HWY_INLINE V16 ConvRow16(const ConvRow& x, int channel, int n) {
  if (x.row == nullptr) return Zero();
  const V16 row = LoadFirst(x.row + channel, n);
  return x.gate != nullptr ? Mul(LoadFirst(x.gate + channel, n), row) : row;
}

// Channels [channel, channel + 16), all of them there, of the convolution at tokens [t, t +
// tokens), of which put(i, y) takes one after the other. Each token's input is read once: what the
// next ones need of it stays in registers.
template <int kTaps, class Put>
HWY_INLINE void ConvolveColumn(const ConvInput& x, const ConvRow* earlier, int t, int tokens,
                               int channel, const Put& put) {
  const V16 bias = x.bias != nullptr ? Load(x.bias + channel) : Zero();
  V16 tap[kTaps], past[kTaps];
#pragma GCC unroll 16
  for (int i = 0; i < kTaps; ++i) {
    tap[i] = Load(x.taps + static_cast<size_t>(i) * x.channels + channel);
  }
#pragma GCC unroll 16
  for (int i = 0; i + 1 < kTaps; ++i) past[i] = ConvRow16(earlier[i], channel, 16);
  for (int i = 0; i < tokens; ++i) {
    past[kTaps - 1] = ConvInput16(x, t + i, channel, 16);
    V16 sum = bias;
#pragma GCC unroll 16
    for (int j = 0; j < kTaps; ++j) sum = MulAdd(tap[j], past[j], sum);
    put(i, sum);
#pragma GCC unroll 16
    for (int j = 0; j + 1 < kTaps; ++j) past[j] = past[j + 1];
  }
}

// The convolution of channels [channel, channel + n) at tokens [t, t + tokens): put(i, d, y) takes
// sixteen channels from number d on of token t + i, zero beyond n, before any activation. x: a
// copy, which the compiler knows that no result is stored to.
template <class Put>
HWY_INLINE void ConvolveTokens(const ConvInput x, int t, int tokens, int channel, int n,
                               const Put& put) {
  ConvRow earlier[kMaxConvSize];
  for (int i = 0; i + 1 < x.conv_size; ++i) earlier[i] = EarlierRow(x, t - (x.conv_size - 1) + i);
  int done = 0;
  const auto columns = [&](auto taps) HWY_ATTR {
    constexpr int kTaps = decltype(taps)::value;
    for (; done + 16 <= n; done += 16) {
      ConvolveColumn<kTaps>(x, earlier, t, tokens, channel + done,
                            [&](int i, const V16& y) HWY_ATTR { put(i, done, y); });
    }
  };
  // What models have.
  if (x.conv_size == 4) columns(std::integral_constant<int, 4>());
  if (x.conv_size == 3) columns(std::integral_constant<int, 3>());
  for (int i = 0; i < tokens; ++i) {
    for (int d = done; d < n; d += 16) {
      V16 sum = x.bias != nullptr ? LoadFirst(x.bias + channel + d, n - d) : Zero();
      for (int tap = 0; tap < x.conv_size; ++tap) {
        const float* taps = x.taps + static_cast<size_t>(tap) * x.channels + channel + d;
        const ConvRow row = EarlierRow(x, t + i - (x.conv_size - 1) + tap);
        sum = MulAdd(LoadFirst(taps, n - d), ConvRow16(row, channel + d, n - d), sum);
      }
      put(i, d, sum);
    }
  }
}

// The same with silu, to rows of `out` that begin `stride` floats after each other. Not inlined,
// since it is long, has three callers in each kernel, and is called once a block.
HWY_MAYBE_UNUSED static HWY_NOINLINE void ShortConvTokens(const ConvInput& x, int t, int tokens,
                                                          int channel, int n, float* out,
                                                          ptrdiff_t stride) {
  ConvolveTokens(x, t, tokens, channel, n, [&](int i, int d, const V16& y) HWY_ATTR {
    Store(Silu(y), out + i * stride + d);
  });
}

// And every row scaled to length `length`.
HWY_MAYBE_UNUSED static HWY_NOINLINE void ShortConvUnits(const ConvInput& x, int t, int tokens,
                                                         int channel, int n, float length,
                                                         float* out, ptrdiff_t stride) {
  ShortConvTokens(x, t, tokens, channel, n, out, stride);
  for (int i = 0; i < tokens; ++i, out += stride) {
    V16 norm = Zero();
    for (int d = 0; d < n; d += 16) norm = MulAdd(Load(out + d), Load(out + d), norm);
    const V16 scale = Set(length / std::sqrt(SumLanes(norm) + 1e-6f));
    for (int d = 0; d < n; d += 16) Store(Mul(Load(out + d), scale), out + d);
  }
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
