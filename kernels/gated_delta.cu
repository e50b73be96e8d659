// The gated delta mixer on a GPU, in two launches for decoding and for prompts alike. In the first,
// a block of threads goes through a span for 64 value channels of one value head, which do not
// depend on the others: it convolves keys, queries and its values, reads the sealed state once for
// a few tokens at a time, corrects the values, and seals at the ends of blocks. In the second, the
// outputs in scratch are normed, and the tail is brought up to date; blocks of the first launch
// still read it.
//
// A sum over key channels is made of sixteen slices (channel modulo 16), each summed in order and
// then joined in order: the same for every number of tokens.
#include "kernels/gated_delta.h"

#include <algorithm>

#include "kernels/device.cuh"
#include "kernels/gated_delta.cuh"

namespace packrat::gpu {
namespace {

// k_t S and q_t S of N tokens from `token` of the block on, of which those before `end` count.
template <int N, class S>
__device__ __forceinline__ void ReadState(const DeltaBlock& b, const DeltaShared& shared,
                                          const S* state, int key_dim, int token, int end) {
  const int octet = threadIdx.x % kDeltaOctets, slice = threadIdx.x / kDeltaOctets;
  float sum[2 * N][8] = {};
  if (octet * 8 < b.columns) {
    const S* column = state + b.first + octet * 8;
#pragma unroll 4
    for (int i = slice; i < key_dim; i += kDeltaSlices) {
      float row[8];
      Load8(column + static_cast<size_t>(i) * b.value_padded, row);
#pragma unroll
      for (int r = 0; r < N; ++r) {
        const int t = min(token + r, end - 1);
        const float k = shared.k[t * b.key_padded + i], q = shared.q[t * b.key_padded + i];
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          sum[2 * r][j] = fmaf(k, row[j], sum[2 * r][j]);
          sum[2 * r + 1][j] = fmaf(q, row[j], sum[2 * r + 1][j]);
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2 * N; ++r) {
    Store8(sum[r], shared.partial + (slice * 2 * N + r) * kDeltaColumns + octet * 8);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * N * kDeltaColumns; i += kDeltaThreads) {
    const int r = i / kDeltaColumns, column = i % kDeltaColumns, t = token + r / 2;
    if (t >= end) continue;
    float total = 0.0f;
    for (int w = 0; w < kDeltaSlices; ++w) total += shared.partial[w * 2 * N * kDeltaColumns + i];
    (r % 2 == 0 ? shared.k_state : shared.q_state)[t * kDeltaColumns + column] = total;
  }
  __syncthreads();
}

// Corrected values and outputs of tokens [slot, end) of the block, a thread for each channel; `row`
// is the first token's in the batch.
__device__ __forceinline__ void Correct(const DeltaArguments& a, const DeltaBlock& b,
                                        const DeltaShared& shared, bool sealed, int slot, int end,
                                        int row) {
  const int column = threadIdx.x;
  if (column >= b.columns) return;
  for (int t = slot; t < end; ++t) {
    const float *since = shared.since + t * kBlockTokens,
                *k_dots = shared.k_dots + t * kBlockTokens,
                *q_dots = shared.q_dots + t * kBlockTokens;
    const int at = t * kDeltaColumns + column;
    float read = sealed ? shared.k_state[at] * shared.decay[t] : 0.0f;
    float out = sealed ? shared.q_state[at] * shared.decay[t] : 0.0f;
    for (int s = 0; s < t; ++s) {
      const float u = shared.u[s * kDeltaColumns + column];
      read = fmaf(since[s] * k_dots[s], u, read);
      out = fmaf(since[s] * q_dots[s], u, out);
    }
    const float u = shared.beta[t] * (shared.v[at] - read);
    shared.u[at] = u;
    a.o[(static_cast<size_t>(row + t - slot) * a.shape.num_value_heads + b.head) * b.value_padded +
        b.first + column] = fmaf(q_dots[t], u, out);
  }
}

// The sealed state after a full block, of this block's channels.
template <class S>
__device__ __forceinline__ void Seal(const DeltaBlock& b, const DeltaShared& shared, bool sealed,
                                     const S* in, S* out) {
  const int octet = threadIdx.x % kDeltaOctets;
  if (octet * 8 >= b.columns) return;
  const float* since = shared.since + (kBlockTokens - 1) * kBlockTokens;
  for (int i = threadIdx.x / kDeltaOctets; i < b.key_padded; i += kDeltaSlices) {
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
      Load8(shared.u + s * kDeltaColumns + octet * 8, u);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j] = fmaf(weight, u[j], sum[j]);
    }
    Store8(sum, out + at);
  }
}

// Blocks: (value heads times groups of channels, spans).
template <int N, class S>
__global__ void __launch_bounds__(kDeltaThreads, 4) GatedDeltaKernel(DeltaArguments a) {
  const GatedDeltaShape& s = a.shape;
  DeltaBlock b;
  b.span = a.batch.spans[blockIdx.y];
  if (b.span.num_tokens == 0) return;
  b.key_padded = PadTo16(s.key_dim), b.value_padded = PadTo16(s.value_dim);
  const int groups = (b.value_padded + kDeltaColumns - 1) / kDeltaColumns;
  b.head = blockIdx.x / groups;
  b.key_head = b.head / (s.num_value_heads / s.num_key_heads);
  b.first = blockIdx.x % groups * kDeltaColumns;
  b.columns = min(kDeltaColumns, b.value_padded - b.first);
  const GatedDeltaTailLayout layout(s);
  float* tail = TailOf(a, b.span);
  b.tail_k = tail + layout.k + static_cast<size_t>(b.key_head) * kBlockTokens * b.key_padded;
  b.tail_u =
      tail + layout.u + static_cast<size_t>(b.head) * kBlockTokens * b.value_padded + b.first;
  b.tail_log_decay = tail + layout.log_decay + b.head * kBlockTokens;
  b.conv = ConvOf(a, tail);
  const DeltaShared shared(SharedMemory(), b.key_padded, N);
  const auto state = [&](int slot) {
    return reinterpret_cast<S*>(a.slots.base + slot * a.slots.stride) +
           b.head * GatedDeltaHeadFloats(s);
  };
  const S* in = state(b.span.slot_in);
  S* out = state(b.span.slot_out);

  const int begin = b.span.position % kBlockTokens;  // Tokens that lie in the tail.
  for (int i = threadIdx.x; i < begin * b.key_padded; i += kDeltaThreads) shared.k[i] = b.tail_k[i];
  for (int i = threadIdx.x; i < begin * b.columns; i += kDeltaThreads) {
    const int token = i / b.columns, column = i % b.columns;
    shared.u[token * kDeltaColumns + column] = b.tail_u[token * b.value_padded + column];
  }
  if (static_cast<int>(threadIdx.x) < begin) {
    shared.log_decay[threadIdx.x] = b.tail_log_decay[threadIdx.x];
  }
  int slot = begin, end = begin;
  for (int t = 0; t < b.span.num_tokens; t += end - slot) {
    const int position = b.span.position + t;
    slot = position % kBlockTokens;
    const int n = min(kBlockTokens - slot, b.span.num_tokens - t);
    end = slot + n;
    const bool sealed = position >= kBlockTokens;
    __syncthreads();  // The block before has been sealed, or the tail has been loaded.
    FillTokens(a, b, shared, t, n, slot);
    if (sealed) {
      for (int token = slot; token < end; token += N) {
        ReadState<N>(b, shared, in, s.key_dim, token, end);
      }
    }
    Correct(a, b, shared, sealed, slot, end, b.span.first_token + t);
    __syncthreads();
    if (end == kBlockTokens) {
      Seal(b, shared, sealed, in, out);
      in = out;
    }
  }
  // What the tail keeps of the last block. Its keys go by way of scratch, since other blocks of
  // threads may still read the old ones.
  for (int i = threadIdx.x; i < end * b.columns; i += kDeltaThreads) {
    const int token = i / b.columns, column = i % b.columns;
    b.tail_u[token * b.value_padded + column] = shared.u[token * kDeltaColumns + column];
  }
  if (b.first != 0 || b.head % (s.num_value_heads / s.num_key_heads) != 0) return;
  float* keys = a.keys + (static_cast<size_t>(blockIdx.y) * s.num_key_heads + b.key_head) *
                             kBlockTokens * b.key_padded;
  for (int i = threadIdx.x; i < end * b.key_padded; i += kDeltaThreads) keys[i] = shared.k[i];
}

// A token's output: norm and gate of one head.
__device__ __forceinline__ void FinishToken(const DeltaArguments& a, int token, int head) {
  const int span = a.batch.token_span[token];
  if (span < 0) return;
  const GatedDeltaShape& s = a.shape;
  const float* o =
      a.o + (static_cast<size_t>(token) * s.num_value_heads + head) * PadTo16(s.value_dim);
  float squares = 0.0f;
  for (int d = threadIdx.x; d < s.value_dim; d += kDeltaThreads)
    squares = fmaf(o[d], o[d], squares);
  auto* scratch = reinterpret_cast<float*>(SharedMemory());
  const float mean = BlockSum(squares, scratch) / static_cast<float>(s.value_dim);
  const float scale = 1.0f / sqrtf(mean + a.weights.norm_eps);
  for (int d = threadIdx.x; d < s.value_dim; d += kDeltaThreads) {
    const int channel = head * s.value_dim + d;
    const float gate =
        LoadValue(a.x.gate, static_cast<size_t>(token) * a.x.stride + channel, a.x.type);
    const float y = o[d] * scale * a.weights.norm[d] * Silu(gate);
    if (!IsFinite(y)) atomicOr(&a.totals[span].not_finite, 1u);
    const size_t to = static_cast<size_t>(token) * s.values() + channel;
    if (a.x.type == DType::kF32) {
      static_cast<float*>(a.x.out)[to] = y;
    } else {
      static_cast<BFloat16*>(a.x.out)[to] = FromFloat<BFloat16>(y);
    }
  }
}

// A span's tail: keys and decays of the block in which it ends, and the convolution's inputs.
// Blocks of all heads share the work.
__device__ __forceinline__ void FinishTail(const DeltaArguments& a, int span_index, int head) {
  const BatchSpan span = a.batch.spans[span_index];
  if (span.num_tokens == 0) return;
  const GatedDeltaShape& s = a.shape;
  const GatedDeltaTailLayout layout(s);
  float* tail = TailOf(a, span);
  // Tokens of the last block, which begins at token `from` of the span (before it where negative).
  const int last = span.position + span.num_tokens - 1, in_block = last % kBlockTokens + 1;
  const int from = span.num_tokens - in_block;
  if (static_cast<int>(threadIdx.x) < in_block && from + static_cast<int>(threadIdx.x) >= 0) {
    tail[layout.log_decay + head * kBlockTokens + threadIdx.x] =
        LogDecay(a, span.first_token + from + threadIdx.x, head);
  }
  if (head < s.num_key_heads) {
    const int padded = PadTo16(s.key_dim);
    const float* keys =
        a.keys + (static_cast<size_t>(span_index) * s.num_key_heads + head) * kBlockTokens * padded;
    float* to = tail + layout.k + static_cast<size_t>(head) * kBlockTokens * padded;
    for (int i = threadIdx.x; i < in_block * padded; i += kDeltaThreads) to[i] = keys[i];
  }
  const ConvInput conv = ConvOf(a, tail);
  for (int t = max(0, span.num_tokens - (s.conv_size - 1)); t < span.num_tokens; ++t) {
    for (int channel = head * kDeltaThreads + threadIdx.x; channel < s.channels();
         channel += s.num_value_heads * kDeltaThreads) {
      KeepConvInput(conv, channel, span.first_token + t, span.position + t);
    }
  }
}

// Blocks: (tokens, then spans; value heads).
__global__ void __launch_bounds__(kDeltaThreads) GatedDeltaFinishKernel(DeltaArguments a) {
  const int index = blockIdx.x, head = blockIdx.y;
  if (index < a.batch.num_tokens) {
    FinishToken(a, index, head);
  } else {
    FinishTail(a, index - a.batch.num_tokens, head);
  }
}

size_t OutputFloats(const GatedDeltaShape& s, int tokens) {
  return static_cast<size_t>(tokens) * s.num_value_heads * PadTo16(s.value_dim);
}

template <int N>
absl::Status LaunchDelta(const DeltaArguments& a, CudaStream stream) {
  const int key_padded = PadTo16(a.shape.key_dim), value_padded = PadTo16(a.shape.value_dim);
  const int groups = (value_padded + kDeltaColumns - 1) / kDeltaColumns;
  const auto kernel =
      a.x.state_type == DType::kF32 ? GatedDeltaKernel<N, float> : GatedDeltaKernel<N, BFloat16>;
  return Launch("GatedDelta", kernel, dim3(a.shape.num_value_heads * groups, a.batch.num_spans),
                kDeltaThreads, DeltaShared::Bytes(key_padded, N), stream, a);
}

}  // namespace

size_t GatedDeltaScratchBytes(const GatedDeltaShape& shape, int max_spans, int max_tokens) {
  return sizeof(float) *
         (OutputFloats(shape, max_tokens) + static_cast<size_t>(max_spans) * shape.num_key_heads *
                                                kBlockTokens * PadTo16(shape.key_dim));
}

size_t GatedDeltaSharedBytes(const GatedDeltaShape& shape) {
  return DeltaShared::Bytes(PadTo16(shape.key_dim), 2);
}

absl::Status GatedDelta(const GatedDeltaShape& shape, const GatedDeltaWeights& weights,
                        const BatchView& batch, const StateParts& slots, const StateParts& tails,
                        const GatedDeltaOperands& operands, SpanTotals* totals, void* scratch,
                        CudaStream stream) {
  if (batch.num_tokens == 0 || batch.num_spans == 0) return absl::OkStatus();
  auto* o = static_cast<float*>(scratch);
  const DeltaArguments a{shape,  weights, batch,
                         slots,  tails,   operands,
                         totals, o,       o + OutputFloats(shape, batch.num_tokens)};
  const absl::Status status =
      batch.max_span_tokens == 1 ? LaunchDelta<1>(a, stream) : LaunchDelta<2>(a, stream);
  if (!status.ok()) return status;
  return Launch("GatedDeltaFinish", GatedDeltaFinishKernel,
                dim3(batch.num_tokens + batch.num_spans, shape.num_value_heads), kDeltaThreads,
                kDeltaWarps * sizeof(float), stream, a);
}

}  // namespace packrat::gpu
