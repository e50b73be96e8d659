// What the kernels of gated_delta.cu share beside the block form: their arguments, the shared
// memory of a block of threads, and what a token brings to its block of 16.
#ifndef PACKRAT_KERNELS_GATED_DELTA_CUH_
#define PACKRAT_KERNELS_GATED_DELTA_CUH_

#include "kernels/block_form.cuh"
#include "kernels/gated_delta.h"

namespace packrat::gpu {

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
struct DeltaShared : FormShared {
  float* q;                       // (16, PE)
  float *v, *k_state, *q_state;   // (16, 64)
  float* partial;                 // (16 slices, 2N, 64)
  float *k_dots, *q_dots, *beta;  // (16, 16): of token t with token s; (16)
  __device__ __forceinline__ DeltaShared(std::byte* at, int key_padded, int tokens_at_once)
      : FormShared(at, key_padded) {
    q = Take(kBlockTokens * key_padded), v = Take(kBlockTokens * kFormColumns);
    k_state = Take(kBlockTokens * kFormColumns), q_state = Take(kBlockTokens * kFormColumns);
    partial = Take(kFormSlices * 2 * tokens_at_once * kFormColumns);
    k_dots = Take(kBlockTokens * kBlockTokens), q_dots = Take(kBlockTokens * kBlockTokens);
    beta = Take(kBlockTokens);
  }
  static size_t Bytes(int key_padded, int tokens_at_once) {
    return sizeof(float) * (Floats(key_padded) +
                            kBlockTokens * (static_cast<size_t>(key_padded) + 3 * kFormColumns +
                                            2 * kBlockTokens + 1) +
                            static_cast<size_t>(kFormSlices) * 2 * tokens_at_once * kFormColumns);
  }
};

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

// A warp convolves (dim) channels of token t, to length `length`, to out (padded).
__device__ __forceinline__ void ConvolveUnit(const FormPart& b, int t, int channel, int dim,
                                             int padded, float length, float* out PACKRAT_CALLER) {
  float squares = 0.0f;
  for (int d = Lane(); d < padded; d += kWarp) {
    const float y = d < dim ? ConvolvedChannel(b.conv, b.span, channel + d, t) : 0.0f;
    squares = fmaf(y, y, squares);
    out[d] = y;
  }
  const float scale = length / sqrtf(WarpSum(squares) + 1e-6f);
  for (int d = Lane(); d < padded; d += kWarp) out[d] *= scale;
}

__device__ __forceinline__ float WarpDot(const float* a, const float* b, int n PACKRAT_CALLER) {
  float sum = 0.0f;
  for (int d = Lane(); d < n; d += kWarp) sum = fmaf(a[d], b[d], sum);
  return WarpSum(sum);
}

// Keys, queries, values and gates of tokens, and their dot products and decays with the block's
// earlier tokens.
__device__ __forceinline__ void FillTokens(const DeltaArguments& a, const FormPart& b,
                                           const DeltaShared& shared, const FormTokens& at) {
  const GatedDeltaShape& s = a.shape;
  const float length = 1.0f / sqrtf(static_cast<float>(s.key_dim));
  for (int i = Warp(); i < 2 * at.n; i += kFormWarps) {
    const int token = at.t + i / 2, to = (at.slot + i / 2) * b.key_padded;
    const bool query = i % 2 == 1;
    ConvolveUnit(b, token, (query ? 0 : s.keys()) + b.key_head * s.key_dim, s.key_dim, b.key_padded,
                 query ? length : 1.0f, (query ? shared.q : shared.k) + to);
  }
  for (int i = threadIdx.x; i < at.n * kFormColumns; i += kFormThreads) {
    const int token = i / kFormColumns, column = i % kFormColumns, d = b.first + column;
    shared.v[(at.slot + token) * kFormColumns + column] =
        d < s.value_dim ? ConvolvedChannel(b.conv, b.span, 2 * s.keys() + b.head * s.value_dim + d,
                                           at.t + token)
                        : 0.0f;
  }
  if (static_cast<int>(threadIdx.x) < at.n) {
    const int row = b.span.first_token + at.t + threadIdx.x;
    shared.beta[at.slot + threadIdx.x] =
        a.weights.beta_scale *
        Sigmoid(a.x.beta[static_cast<size_t>(row) * a.x.scalar_stride + b.head]);
    shared.log_decay[at.slot + threadIdx.x] = LogDecay(a, row, b.head);
  }
  __syncthreads();
  for (int pair = at.slot * kBlockTokens + Warp(); pair < at.end * kBlockTokens;
       pair += kFormWarps) {
    const int token = pair / kBlockTokens, other = pair % kBlockTokens;
    if (other > token) continue;
    const float* key = shared.k + other * b.key_padded;
    const float k_dot = WarpDot(shared.k + token * b.key_padded, key, b.key_padded);
    const float q_dot = WarpDot(shared.q + token * b.key_padded, key, b.key_padded);
    if (Lane() == 0) shared.k_dots[pair] = k_dot, shared.q_dots[pair] = q_dot;
  }
  FillDecays(shared, at);
  __syncthreads();
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_GATED_DELTA_CUH_
