// What the kernels in block form share whose sealed state is, for each head, a decayed sum of outer
// products of keys and values (mamba2.cu, gated_delta.cu). A block of threads goes through a span
// for 64 value channels of one head, a block of 16 tokens after the other.
//
// A sum over key channels is made of sixteen slices (channel modulo 16), each summed in order and
// then joined in order: the same for every number of tokens.
#ifndef PACKRAT_KERNELS_BLOCK_FORM_CUH_
#define PACKRAT_KERNELS_BLOCK_FORM_CUH_

#include "kernels/batch.h"
#include "kernels/device.cuh"
#include "kernels/short_conv.cuh"

namespace packrat::gpu {

inline constexpr int kFormThreads = 128;
inline constexpr int kFormWarps = kFormThreads / kWarp;
inline constexpr int kFormColumns = 64;               // Value channels of a block of threads.
inline constexpr int kFormOctets = kFormColumns / 8;  // A thread reads eight neighbours of a row.
inline constexpr int kFormSlices = kFormThreads / kFormOctets;

__device__ __forceinline__ float* TailOf(const StateParts& tails, const BatchSpan& span) {
  return reinterpret_cast<float*>(tails.base + span.tail * tails.stride);
}

// A channel of the convolution, and silu, of the span's token t.
__device__ __forceinline__ float ConvolvedChannel(const ConvInput& conv, const BatchSpan& span,
                                                  int channel, int t) {
  const int position = span.position + t, taps = conv.conv_size;
  return ShortConv(conv, channel, span.first_token + t, position, span.position,
                   taps > 1 ? position % (taps - 1) : 0);
}

// The tokens of a span's block: [t, t + n) of the span, [slot, end) of the block. n <= 0: the span
// has no such block.
struct FormTokens {
  int t, n, slot, end;
  __device__ __forceinline__ FormTokens(const BatchSpan& span, int block) {
    const int begin = span.position % kBlockTokens;
    t = block == 0 ? 0 : block * kBlockTokens - begin;
    slot = block == 0 ? begin : 0;
    n = min(kBlockTokens - slot, span.num_tokens - t);
    end = slot + n;
  }
};

// A block of threads' share of a span; its channels of the head begin at `first`.
struct FormPart {
  BatchSpan span;
  int head, key_head, first, columns;  // Columns with padding.
  int key_padded, value_padded;
  float *tail_k, *tail_u, *tail_log_decay;  // Of the head, tail_u from `first` on.
  ConvInput conv;

  // Tails: all heads' keys, values and logarithms of decays.
  __device__ __forceinline__ FormPart(const BatchSpan& of, int heads_per_key, int key_dim,
                                      int value_dim, float* keys, float* values, float* log_decays,
                                      const ConvInput& input)
      : span(of), conv(input) {
    key_padded = PadTo16(key_dim), value_padded = PadTo16(value_dim);
    const int parts = Parts(value_dim);
    head = static_cast<int>(blockIdx.x) / parts;
    key_head = head / heads_per_key;
    first = static_cast<int>(blockIdx.x) % parts * kFormColumns;
    columns = min(kFormColumns, value_padded - first);
    tail_k = keys + static_cast<size_t>(key_head) * kBlockTokens * key_padded;
    tail_u = values + static_cast<size_t>(head) * kBlockTokens * value_padded + first;
    tail_log_decay = log_decays + head * kBlockTokens;
  }
  // Shares of a head.
  static constexpr int Parts(int value_dim) {
    return (PadTo16(value_dim) + kFormColumns - 1) / kFormColumns;
  }
};

// Shared memory of a block of threads, of which each kernel takes more.
struct FormShared {
  float* k;                  // (16, PK)
  float* u;                  // (16, 64)
  float* since;              // (16, 16): the decay of token t (row) since token s
  float *decay, *log_decay;  // (16): decay: since the block's start
  float* next;

  __device__ __forceinline__ FormShared(std::byte* at, int key_padded)
      : next(reinterpret_cast<float*>(at)) {
    k = Take(kBlockTokens * key_padded), u = Take(kBlockTokens * kFormColumns);
    since = Take(kBlockTokens * kBlockTokens);
    decay = Take(kBlockTokens), log_decay = Take(kBlockTokens);
  }
  __device__ __forceinline__ float* Take(int n) {
    float* part = next;
    next += n;
    return part;
  }
  static size_t Floats(int key_padded) {
    return kBlockTokens * (static_cast<size_t>(key_padded) + kFormColumns + kBlockTokens + 2);
  }
};

// What the tail has of the block in which the span begins.
__device__ __forceinline__ void LoadTail(const FormPart& b, const FormShared& shared) {
  const int begin = b.span.position % kBlockTokens;
  for (int i = threadIdx.x; i < begin * b.key_padded; i += kFormThreads) shared.k[i] = b.tail_k[i];
  for (int i = threadIdx.x; i < begin * b.columns; i += kFormThreads) {
    const int token = i / b.columns, column = i % b.columns;
    shared.u[token * kFormColumns + column] = b.tail_u[token * b.value_padded + column];
  }
  if (static_cast<int>(threadIdx.x) < begin) {
    shared.log_decay[threadIdx.x] = b.tail_log_decay[threadIdx.x];
  }
}

// The values of the block in which the span ends, which has `end` tokens, to the tail.
__device__ __forceinline__ void KeepValues(const FormPart& b, const FormShared& shared, int end) {
  for (int i = threadIdx.x; i < end * b.columns; i += kFormThreads) {
    const int token = i / b.columns, column = i % b.columns;
    b.tail_u[token * b.value_padded + column] = shared.u[token * kFormColumns + column];
  }
}

// `since` and `decay` of tokens [slot, end). Each is summed by itself rather than taken as a
// difference of sums from the block's start: after a large step, those no longer hold the small
// ones.
__device__ __forceinline__ void FillDecays(const FormShared& shared, const FormTokens& at) {
  for (int pair = at.slot * kBlockTokens + threadIdx.x; pair < at.end * kBlockTokens;
       pair += kFormThreads) {
    const int token = pair / kBlockTokens, other = pair % kBlockTokens;
    float sum = 0.0f;
    for (int r = other + 1; r <= token; ++r) sum += shared.log_decay[r];
    shared.since[pair] = expf(sum);
    if (other == 0) shared.decay[token] = expf(shared.log_decay[0] + sum);
  }
}

// N rows (PK) times the sealed state: row(r) is one, put(r, column, product) takes what came of it.
// partial: (16 slices, N, 64).
template <int N, class S, class Row, class Put>
__device__ __forceinline__ void ReadState(const FormPart& b, const S* state, int key_dim,
                                          float* partial, const Row& row, const Put& put) {
  const int octet = threadIdx.x % kFormOctets, slice = threadIdx.x / kFormOctets;
  float sum[N][8] = {};
  if (octet * 8 < b.columns) {
    const S* column = state + b.first + octet * 8;
    // 128 bytes are under way at once. The host's compiler does not see the pragma's use of it.
    [[maybe_unused]] constexpr int kUnroll = sizeof(S) == 2 && N <= 2 ? 8 : 4;
#pragma unroll kUnroll
    for (int i = slice; i < key_dim; i += kFormSlices) {
      float values[8];
      Load8(column + static_cast<size_t>(i) * b.value_padded, values);
#pragma unroll
      for (int r = 0; r < N; ++r) {
        const float x = row(r)[i];
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[r][j] = fmaf(x, values[j], sum[r][j]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < N; ++r) {
    Store8(sum[r], partial + (slice * N + r) * kFormColumns + octet * 8);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < N * kFormColumns; i += kFormThreads) {
    float total = 0.0f;
    for (int w = 0; w < kFormSlices; ++w) total += partial[w * N * kFormColumns + i];
    put(i / kFormColumns, i % kFormColumns, total);
  }
  __syncthreads();
}

// The sealed state after a full block, of this share's channels. sealed: there was one before.
template <class S>
__device__ __forceinline__ void Seal(const FormPart& b, const FormShared& shared, bool sealed,
                                     const S* in, S* out) {
  const int octet = threadIdx.x % kFormOctets;
  if (octet * 8 >= b.columns) return;
  const float* since = shared.since + (kBlockTokens - 1) * kBlockTokens;
  for (int i = threadIdx.x / kFormOctets; i < b.key_padded; i += kFormSlices) {
    const size_t at = static_cast<size_t>(i) * b.value_padded + b.first + octet * 8;
    float sum[8] = {};
    if (sealed) {
      Load8(in + at, sum);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j] *= shared.decay[kBlockTokens - 1];
    }
    for (int s = 0; s < kBlockTokens; ++s) {
      const float weight = since[s] * shared.k[s * b.key_padded + i];
      float u[8];
      Load8(shared.u + s * kFormColumns + octet * 8, u);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j] = fmaf(weight, u[j], sum[j]);
    }
    Store8(sum, out + at);
  }
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_BLOCK_FORM_CUH_
