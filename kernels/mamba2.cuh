// What the kernels of mamba2.cu share: their arguments, the shared memory of a block of threads,
// and where a span's tokens lie in their block of 16.
#ifndef PACKRAT_KERNELS_MAMBA2_CUH_
#define PACKRAT_KERNELS_MAMBA2_CUH_

#include "kernels/device.cuh"
#include "kernels/mamba2.h"
#include "kernels/short_conv.cuh"

namespace packrat::gpu {

inline constexpr int kMambaThreads = 128;
inline constexpr int kMambaWarps = kMambaThreads / kWarp;
inline constexpr int kMambaColumns = 64;                // Channels of a head that a block has.
inline constexpr int kMambaOctets = kMambaColumns / 8;  // A thread reads eight neighbours of a row.
inline constexpr int kMambaSlices = kMambaThreads / kMambaOctets;

struct MambaArguments {
  Mamba2Shape shape;
  Mamba2Weights weights;
  BatchView batch;
  StateParts slots, tails;
  Mamba2Operands x;
  SpanTotals* totals;
};

// Shared memory of a block of ScanKernel; N tokens read the state at once.
struct MambaShared {
  float *b, *c;              // (16, PN)
  float *x, *u, *read;       // (16, 64)
  float* partial;            // (16 slices, N, 64)
  float *weights, *since;    // (16, 16): of token t with token s; `weights` with their dot product.
  float *decay, *log_decay;  // (16)
  __device__ __forceinline__ MambaShared(std::byte* at, int state_padded, int tokens_at_once) {
    auto* next = reinterpret_cast<float*>(at);
    const auto take = [&](int n) {
      float* part = next;
      next += n;
      return part;
    };
    b = take(kBlockTokens * state_padded), c = take(kBlockTokens * state_padded);
    x = take(kBlockTokens * kMambaColumns), u = take(kBlockTokens * kMambaColumns);
    read = take(kBlockTokens * kMambaColumns);
    partial = take(kMambaSlices * tokens_at_once * kMambaColumns);
    weights = take(kBlockTokens * kBlockTokens), since = take(kBlockTokens * kBlockTokens);
    decay = take(kBlockTokens), log_decay = take(kBlockTokens);
  }
  static size_t Bytes(int state_padded, int tokens_at_once) {
    return sizeof(float) * (kBlockTokens * (2 * static_cast<size_t>(state_padded) +
                                            3 * kMambaColumns + 2 * kBlockTokens + 2) +
                            static_cast<size_t>(kMambaSlices) * tokens_at_once * kMambaColumns);
  }
};

__device__ __forceinline__ float* TailOf(const MambaArguments& a, const BatchSpan& span) {
  return reinterpret_cast<float*>(a.tails.base + span.tail * a.tails.stride);
}

// What the heads share of batch row `row` (Mamba2TokenLayout).
__device__ __forceinline__ float* MemoryOf(const MambaArguments& a, int row) {
  return a.x.memory + static_cast<size_t>(row) * Mamba2TokenLayout(a.shape).end;
}

__device__ __forceinline__ ConvInput ConvOf(const MambaArguments& a, float* tail) {
  return {a.x.xbc,
          a.x.stride,
          a.x.type,
          tail + Mamba2TailLayout(a.shape).conv,
          a.weights.conv,
          a.weights.conv_bias,
          a.shape.channels(),
          a.shape.conv_size};
}

// A channel of the convolution of the span's token t.
__device__ __forceinline__ float ConvolvedChannel(const ConvInput& conv, const BatchSpan& span,
                                                  int channel, int t) {
  const int position = span.position + t, taps = conv.conv_size;
  return ShortConv(conv, channel, span.first_token + t, position, span.position,
                   taps > 1 ? position % (taps - 1) : 0);
}

// dt of a token's head.
__device__ __forceinline__ float MambaStep(const MambaArguments& a, int row, int head) {
  const Mamba2Weights& w = a.weights;
  const float x =
      fmaf(a.x.dt[static_cast<size_t>(row) * a.x.dt_stride + head], w.dt_scale, w.dt_bias[head]);
  // A NaN passes: comparisons with it are false.
  float step = (x > 0.0f ? x : 0.0f) + log1pf(expf(-fabsf(x)));
  if (step < w.dt_min) step = w.dt_min;
  if (step > w.dt_max) step = w.dt_max;
  return step;
}

// The tokens of a span's block: [t, t + n) of the span, at `slot` of the block. n <= 0: the span
// has no such block.
struct MambaTokens {
  int t, n, slot;
  __device__ __forceinline__ MambaTokens(const BatchSpan& span, int block) {
    const int begin = span.position % kBlockTokens;
    t = block == 0 ? 0 : block * kBlockTokens - begin;
    slot = block == 0 ? begin : 0;
    n = min(kBlockTokens - slot, span.num_tokens - t);
  }
};

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MAMBA2_CUH_
