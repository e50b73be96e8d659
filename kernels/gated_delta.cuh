// What the kernels of gated_delta.cu share: their arguments, the shared memory of a block of
// threads, and what a token brings to its block of 16.
#ifndef PACKRAT_KERNELS_GATED_DELTA_CUH_
#define PACKRAT_KERNELS_GATED_DELTA_CUH_

#include "kernels/device.cuh"
#include "kernels/gated_delta.h"
#include "kernels/short_conv.cuh"

namespace packrat::gpu {

inline constexpr int kDeltaThreads = 128;
inline constexpr int kDeltaWarps = kDeltaThreads / kWarp;
inline constexpr int kDeltaColumns = 64;                // Value channels of a block.
inline constexpr int kDeltaOctets = kDeltaColumns / 8;  // A thread reads eight neighbours of a row.
inline constexpr int kDeltaSlices = kDeltaThreads / kDeltaOctets;

struct DeltaArguments {
  GatedDeltaShape shape;
  GatedDeltaWeights weights;
  BatchView batch;
  StateParts slots, tails;
  GatedDeltaOperands x;
  SpanTotals* totals;
  float* o;     // (tokens, H, PD): outputs before their norm
  float* keys;  // (spans, K, 16, PE): of the block in which a span ends
};

// A block's shared memory; N tokens read the state at once.
struct DeltaShared {
  float *k, *q;                      // (16, PE)
  float *u, *v, *k_state, *q_state;  // (16, 64)
  float* partial;                    // (16 slices, 2N, 64)
  float *k_dots, *q_dots, *since;    // (16, 16): of token t with token s
  float *decay, *beta, *log_decay;   // (16)
  __device__ __forceinline__ DeltaShared(std::byte* at, int key_padded, int tokens_at_once) {
    auto* next = reinterpret_cast<float*>(at);
    const auto take = [&](int n) {
      float* part = next;
      next += n;
      return part;
    };
    k = take(kBlockTokens * key_padded), q = take(kBlockTokens * key_padded);
    u = take(kBlockTokens * kDeltaColumns), v = take(kBlockTokens * kDeltaColumns);
    k_state = take(kBlockTokens * kDeltaColumns), q_state = take(kBlockTokens * kDeltaColumns);
    partial = take(kDeltaSlices * 2 * tokens_at_once * kDeltaColumns);
    k_dots = take(kBlockTokens * kBlockTokens), q_dots = take(kBlockTokens * kBlockTokens);
    since = take(kBlockTokens * kBlockTokens);
    decay = take(kBlockTokens), beta = take(kBlockTokens), log_decay = take(kBlockTokens);
  }
  static size_t Bytes(int key_padded, int tokens_at_once) {
    return sizeof(float) * (kBlockTokens * (2 * static_cast<size_t>(key_padded) +
                                            4 * kDeltaColumns + 3 * kBlockTokens + 3) +
                            static_cast<size_t>(kDeltaSlices) * 2 * tokens_at_once * kDeltaColumns);
  }
};

// One block's share of a span.
struct DeltaBlock {
  BatchSpan span;
  int head, key_head, first, columns;  // Its value channels begin at `first`; padding included.
  int key_padded, value_padded;
  float *tail_k, *tail_u, *tail_log_decay;  // tail_u: at this block's first channel.
  ConvInput conv;
};

__device__ __forceinline__ float* TailOf(const DeltaArguments& a, const BatchSpan& span) {
  return reinterpret_cast<float*>(a.tails.base + span.tail * a.tails.stride);
}

__device__ __forceinline__ ConvInput ConvOf(const DeltaArguments& a, float* tail) {
  const GatedDeltaShape& s = a.shape;
  return {a.x.qkv,        a.x.stride,          a.x.type,     tail + GatedDeltaTailLayout(s).conv,
          a.weights.conv, a.weights.conv_bias, s.channels(), s.conv_size};
}

// log g of a token.
__device__ __forceinline__ float LogDecay(const DeltaArguments& a, int row, int head) {
  const float x =
      a.x.decay[static_cast<size_t>(row) * a.x.scalar_stride + head] + a.weights.dt_bias[head];
  return -a.weights.decay_rate[head] * (fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))));
}

// A channel of the convolution of the span's token t.
__device__ __forceinline__ float ConvolvedChannel(const DeltaBlock& b, int channel, int t) {
  const int position = b.span.position + t, taps = b.conv.conv_size;
  return ShortConv(b.conv, channel, b.span.first_token + t, position, b.span.position,
                   taps > 1 ? position % (taps - 1) : 0);
}

// A warp convolves (dim) channels of token t, to length `length`, to out (padded).
__device__ __forceinline__ void ConvolveUnit(const DeltaBlock& b, int t, int channel, int dim,
                                             int padded, float length, float* out) {
  float squares = 0.0f;
  for (int d = Lane(); d < padded; d += kWarp) {
    const float y = d < dim ? ConvolvedChannel(b, channel + d, t) : 0.0f;
    squares = fmaf(y, y, squares);
    out[d] = y;
  }
  const float scale = length / sqrtf(WarpSum(squares) + 1e-6f);
  for (int d = Lane(); d < padded; d += kWarp) out[d] *= scale;
}

__device__ __forceinline__ float WarpDot(const float* a, const float* b, int n) {
  float sum = 0.0f;
  for (int d = Lane(); d < n; d += kWarp) sum = fmaf(a[d], b[d], sum);
  return WarpSum(sum);
}

// Keys, queries, values and gates of tokens [t, t + n), which lie at `slot` of their block, and
// their dot products and decays with the block's earlier tokens.
__device__ __forceinline__ void FillTokens(const DeltaArguments& a, const DeltaBlock& b,
                                           const DeltaShared& shared, int t, int n, int slot) {
  const GatedDeltaShape& s = a.shape;
  const float length = 1.0f / sqrtf(static_cast<float>(s.key_dim));
  for (int i = Warp(); i < 2 * n; i += kDeltaWarps) {
    const int token = t + i / 2, at = (slot + i / 2) * b.key_padded;
    const bool query = i % 2 == 1;
    ConvolveUnit(b, token, (query ? 0 : s.keys()) + b.key_head * s.key_dim, s.key_dim, b.key_padded,
                 query ? length : 1.0f, (query ? shared.q : shared.k) + at);
  }
  for (int i = threadIdx.x; i < n * kDeltaColumns; i += kDeltaThreads) {
    const int token = i / kDeltaColumns, column = i % kDeltaColumns, d = b.first + column;
    shared.v[(slot + token) * kDeltaColumns + column] =
        d < s.value_dim ? ConvolvedChannel(b, 2 * s.keys() + b.head * s.value_dim + d, t + token)
                        : 0.0f;
  }
  if (static_cast<int>(threadIdx.x) < n) {
    const int row = b.span.first_token + t + threadIdx.x;
    shared.beta[slot + threadIdx.x] =
        a.weights.beta_scale *
        Sigmoid(a.x.beta[static_cast<size_t>(row) * a.x.scalar_stride + b.head]);
    shared.log_decay[slot + threadIdx.x] = LogDecay(a, row, b.head);
  }
  __syncthreads();
  const int end = slot + n;
  for (int pair = slot * kBlockTokens + Warp(); pair < end * kBlockTokens; pair += kDeltaWarps) {
    const int token = pair / kBlockTokens, other = pair % kBlockTokens;
    if (other > token) continue;
    const float* key = shared.k + other * b.key_padded;
    const float k_dot = WarpDot(shared.k + token * b.key_padded, key, b.key_padded);
    const float q_dot = WarpDot(shared.q + token * b.key_padded, key, b.key_padded);
    if (Lane() == 0) shared.k_dots[pair] = k_dot, shared.q_dots[pair] = q_dot;
  }
  // Each is summed by itself rather than taken as a difference of sums from the block's start:
  // after a large step, those no longer hold the small ones.
  for (int pair = slot * kBlockTokens + threadIdx.x; pair < end * kBlockTokens;
       pair += kDeltaThreads) {
    const int token = pair / kBlockTokens, other = pair % kBlockTokens;
    float sum = 0.0f;
    for (int r = other + 1; r <= token; ++r) sum += shared.log_decay[r];
    shared.since[pair] = expf(sum);
    if (other == 0) shared.decay[token] = expf(shared.log_decay[0] + sum);
  }
  __syncthreads();
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_GATED_DELTA_CUH_
