// The gated delta mixer on a GPU, in two launches for decoding and for prompts alike. In the first
// a block of threads goes through a span for 64 value channels of one value head, which need
// nothing of the others: it convolves keys, queries and its values, reads the sealed state once for
// a few tokens at a time, corrects the values, and seals at the ends of blocks. In the second the
// outputs, which lie in scratch, are normed, and the tail is brought up to date, which blocks of
// the first launch may still have been reading.
//
// A sum over key channels is that of sixteen slices (channel modulo 16), each in order, joined in
// order: the same for every number of tokens.
#include "kernels/gated_delta.h"

#include <algorithm>

#include "kernels/device.cuh"
#include "kernels/short_conv.cuh"

namespace packrat::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kColumns = 64;           // Value channels of a block.
constexpr int kOctets = kColumns / 8;  // A thread reads eight neighbours of a row.
constexpr int kSlices = kThreads / kOctets;

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
    u = take(kBlockTokens * kColumns), v = take(kBlockTokens * kColumns);
    k_state = take(kBlockTokens * kColumns), q_state = take(kBlockTokens * kColumns);
    partial = take(kSlices * 2 * tokens_at_once * kColumns);
    k_dots = take(kBlockTokens * kBlockTokens), q_dots = take(kBlockTokens * kBlockTokens);
    since = take(kBlockTokens * kBlockTokens);
    decay = take(kBlockTokens), beta = take(kBlockTokens), log_decay = take(kBlockTokens);
  }
  static size_t Bytes(int key_padded, int tokens_at_once) {
    return sizeof(float) * (kBlockTokens * (2 * static_cast<size_t>(key_padded) + 4 * kColumns +
                                            3 * kBlockTokens + 3) +
                            static_cast<size_t>(kSlices) * 2 * tokens_at_once * kColumns);
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
// what they have to do with the block's earlier ones.
__device__ __forceinline__ void FillTokens(const DeltaArguments& a, const DeltaBlock& b,
                                           const DeltaShared& shared, int t, int n, int slot) {
  const GatedDeltaShape& s = a.shape;
  const float length = 1.0f / sqrtf(static_cast<float>(s.key_dim));
  for (int i = Warp(); i < 2 * n; i += kWarps) {
    const int token = t + i / 2, at = (slot + i / 2) * b.key_padded;
    const bool query = i % 2 == 1;
    ConvolveUnit(b, token, (query ? 0 : s.keys()) + b.key_head * s.key_dim, s.key_dim, b.key_padded,
                 query ? length : 1.0f, (query ? shared.q : shared.k) + at);
  }
  for (int i = threadIdx.x; i < n * kColumns; i += kThreads) {
    const int token = i / kColumns, column = i % kColumns, d = b.first + column;
    shared.v[(slot + token) * kColumns + column] =
        d < s.value_dim ? ConvolvedChannel(b, 2 * s.keys() + b.head * s.value_dim + d, t + token)
                        : 0.0f;
  }
  if (static_cast<int>(threadIdx.x) < n) {
    const int row = b.span.first_token + t + threadIdx.x;
    shared.beta[slot + threadIdx.x] =
        Sigmoid(a.x.beta[static_cast<size_t>(row) * a.x.scalar_stride + b.head]);
    shared.log_decay[slot + threadIdx.x] = LogDecay(a, row, b.head);
  }
  __syncthreads();
  const int end = slot + n;
  for (int pair = slot * kBlockTokens + Warp(); pair < end * kBlockTokens; pair += kWarps) {
    const int token = pair / kBlockTokens, other = pair % kBlockTokens;
    if (other > token) continue;
    const float* key = shared.k + other * b.key_padded;
    const float k_dot = WarpDot(shared.k + token * b.key_padded, key, b.key_padded);
    const float q_dot = WarpDot(shared.q + token * b.key_padded, key, b.key_padded);
    if (Lane() == 0) shared.k_dots[pair] = k_dot, shared.q_dots[pair] = q_dot;
  }
  // Sums of their own, not differences, since a sum from the block's start loses its small steps
  // where a large one came before.
  for (int pair = slot * kBlockTokens + threadIdx.x; pair < end * kBlockTokens; pair += kThreads) {
    const int token = pair / kBlockTokens, other = pair % kBlockTokens;
    float sum = 0.0f;
    for (int r = other + 1; r <= token; ++r) sum += shared.log_decay[r];
    shared.since[pair] = expf(sum);
    if (other == 0) shared.decay[token] = expf(shared.log_decay[0] + sum);
  }
  __syncthreads();
}

// k_t S and q_t S of N tokens from `token` of the block on, of which those before `end` count.
template <int N, class S>
__device__ __forceinline__ void ReadState(const DeltaBlock& b, const DeltaShared& shared,
                                          const S* state, int key_dim, int token, int end) {
  const int octet = threadIdx.x % kOctets, slice = threadIdx.x / kOctets;
  float sum[2 * N][8] = {};
  if (octet * 8 < b.columns) {
    const S* column = state + b.first + octet * 8;
#pragma unroll 4
    for (int i = slice; i < key_dim; i += kSlices) {
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
    Store8(sum[r], shared.partial + (slice * 2 * N + r) * kColumns + octet * 8);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * N * kColumns; i += kThreads) {
    const int r = i / kColumns, column = i % kColumns, t = token + r / 2;
    if (t >= end) continue;
    float total = 0.0f;
    for (int w = 0; w < kSlices; ++w) total += shared.partial[w * 2 * N * kColumns + i];
    (r % 2 == 0 ? shared.k_state : shared.q_state)[t * kColumns + column] = total;
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
    const int at = t * kColumns + column;
    float read = sealed ? shared.k_state[at] * shared.decay[t] : 0.0f;
    float out = sealed ? shared.q_state[at] * shared.decay[t] : 0.0f;
    for (int s = 0; s < t; ++s) {
      const float u = shared.u[s * kColumns + column];
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
  const int octet = threadIdx.x % kOctets;
  if (octet * 8 >= b.columns) return;
  const float* since = shared.since + (kBlockTokens - 1) * kBlockTokens;
  for (int i = threadIdx.x / kOctets; i < b.key_padded; i += kSlices) {
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
      Load8(shared.u + s * kColumns + octet * 8, u);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j] = fmaf(weight, u[j], sum[j]);
    }
    Store8(sum, out + at);
  }
}

// Blocks: (value heads times groups of channels, spans).
template <int N, class S>
__global__ void __launch_bounds__(kThreads, 4) GatedDeltaKernel(DeltaArguments a) {
  const GatedDeltaShape& s = a.shape;
  DeltaBlock b;
  b.span = a.batch.spans[blockIdx.y];
  if (b.span.num_tokens == 0) return;
  b.key_padded = PadTo16(s.key_dim), b.value_padded = PadTo16(s.value_dim);
  const int groups = (b.value_padded + kColumns - 1) / kColumns;
  b.head = blockIdx.x / groups;
  b.key_head = b.head / (s.num_value_heads / s.num_key_heads);
  b.first = blockIdx.x % groups * kColumns;
  b.columns = min(kColumns, b.value_padded - b.first);
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
  for (int i = threadIdx.x; i < begin * b.key_padded; i += kThreads) shared.k[i] = b.tail_k[i];
  for (int i = threadIdx.x; i < begin * b.columns; i += kThreads) {
    const int token = i / b.columns, column = i % b.columns;
    shared.u[token * kColumns + column] = b.tail_u[token * b.value_padded + column];
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
    __syncthreads();  // The block before has been sealed, or the tail has come.
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
  // What the tail keeps of the last block; its keys go by way of scratch, since others may still
  // read those of before.
  for (int i = threadIdx.x; i < end * b.columns; i += kThreads) {
    const int token = i / b.columns, column = i % b.columns;
    b.tail_u[token * b.value_padded + column] = shared.u[token * kColumns + column];
  }
  if (b.first != 0 || b.head % (s.num_value_heads / s.num_key_heads) != 0) return;
  float* keys = a.keys + (static_cast<size_t>(blockIdx.y) * s.num_key_heads + b.key_head) *
                             kBlockTokens * b.key_padded;
  for (int i = threadIdx.x; i < end * b.key_padded; i += kThreads) keys[i] = shared.k[i];
}

// A token's output: norm and gate of one head.
__device__ __forceinline__ void FinishToken(const DeltaArguments& a, int token, int head) {
  const int span = a.batch.token_span[token];
  if (span < 0) return;
  const GatedDeltaShape& s = a.shape;
  const float* o =
      a.o + (static_cast<size_t>(token) * s.num_value_heads + head) * PadTo16(s.value_dim);
  float squares = 0.0f;
  for (int d = threadIdx.x; d < s.value_dim; d += kThreads) squares = fmaf(o[d], o[d], squares);
  auto* scratch = reinterpret_cast<float*>(SharedMemory());
  const float mean = BlockSum(squares, scratch) / static_cast<float>(s.value_dim);
  const float scale = 1.0f / sqrtf(mean + a.weights.norm_eps);
  for (int d = threadIdx.x; d < s.value_dim; d += kThreads) {
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
    for (int i = threadIdx.x; i < in_block * padded; i += kThreads) to[i] = keys[i];
  }
  const ConvInput conv = ConvOf(a, tail);
  for (int t = max(0, span.num_tokens - (s.conv_size - 1)); t < span.num_tokens; ++t) {
    for (int channel = head * kThreads + threadIdx.x; channel < s.channels();
         channel += s.num_value_heads * kThreads) {
      KeepConvInput(conv, channel, span.first_token + t, span.position + t);
    }
  }
}

// Blocks: (tokens, then spans; value heads).
__global__ void __launch_bounds__(kThreads) GatedDeltaFinishKernel(DeltaArguments a) {
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
  const int groups = (value_padded + kColumns - 1) / kColumns;
  const auto kernel =
      a.x.state_type == DType::kF32 ? GatedDeltaKernel<N, float> : GatedDeltaKernel<N, BFloat16>;
  return Launch("GatedDelta", kernel, dim3(a.shape.num_value_heads * groups, a.batch.num_spans),
                kThreads, DeltaShared::Bytes(key_padded, N), stream, a);
}

}  // namespace

size_t GatedDeltaScratchBytes(const GatedDeltaShape& shape, int max_spans, int max_tokens) {
  return sizeof(float) *
         (OutputFloats(shape, max_tokens) + static_cast<size_t>(max_spans) * shape.num_key_heads *
                                                kBlockTokens * PadTo16(shape.key_dim));
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
                dim3(batch.num_tokens + batch.num_spans, shape.num_value_heads), kThreads,
                kWarps * sizeof(float), stream, a);
}

}  // namespace packrat::gpu
