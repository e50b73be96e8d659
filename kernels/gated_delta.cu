// The gated delta mixer on a GPU, in two launches for decoding and for prompts alike. In the first,
// a block of threads goes through a span for 64 value channels of one value head, which do not
// depend on the others: it convolves keys, queries and its values, reads the sealed state once for
// a few tokens at a time, corrects the values, and seals at the ends of blocks. In the second, the
// outputs in scratch are normed, and the tail is brought up to date; blocks of the first launch
// still read it.
#include "kernels/gated_delta.h"

#include <algorithm>

#include "kernels/gated_delta.cuh"

namespace packrat::gpu {
namespace {

// Corrected values and outputs of tokens, a thread for each channel.
__device__ __forceinline__ void Correct(const DeltaArguments& a, const FormPart& b,
                                        const DeltaShared& shared, bool sealed,
                                        const FormTokens& tokens) {
  const int column = threadIdx.x;
  if (column >= b.columns) return;
  const int row = b.span.first_token + tokens.t - tokens.slot;  // Of the block's first token.
  for (int t = tokens.slot; t < tokens.end; ++t) {
    const float *since = shared.since + t * kBlockTokens,
                *k_dots = shared.k_dots + t * kBlockTokens,
                *q_dots = shared.q_dots + t * kBlockTokens;
    const int at = t * kFormColumns + column;
    float read = sealed ? shared.k_state[at] * shared.decay[t] : 0.0f;
    float out = sealed ? shared.q_state[at] * shared.decay[t] : 0.0f;
    for (int s = 0; s < t; ++s) {
      const float u = shared.u[s * kFormColumns + column];
      read = fmaf(since[s] * k_dots[s], u, read);
      out = fmaf(since[s] * q_dots[s], u, out);
    }
    const float u = shared.beta[t] * (shared.v[at] - read);
    shared.u[at] = u;
    a.o[(static_cast<size_t>(row + t) * a.shape.num_value_heads + b.head) * b.value_padded +
        b.first + column] = fmaf(q_dots[t], u, out);
  }
}

// Blocks: (value heads times groups of channels, spans).
template <int N, class S>
__global__ void __launch_bounds__(kFormThreads, 4) GatedDeltaKernel(DeltaArguments a) {
  AwaitPrevious();
  const GatedDeltaShape& s = a.shape;
  const BatchSpan& span = a.batch.spans[blockIdx.y];
  if (span.num_tokens == 0) return;
  const GatedDeltaTailLayout layout(s);
  float* tail = TailOf(a.tails, span);
  const int heads_per_key = s.num_value_heads / s.num_key_heads;
  const FormPart b(span, heads_per_key, s.key_dim, s.value_dim, tail + layout.k, tail + layout.u,
                   tail + layout.log_decay, ConvOf(a, tail));
  const DeltaShared shared(SharedMemory(), b.key_padded, N);
  const auto state = [&](int slot) {
    return reinterpret_cast<S*>(a.slots.base + slot * a.slots.stride) +
           b.head * GatedDeltaHeadFloats(s);
  };
  const S* in = state(b.span.slot_in);
  S* out = state(b.span.slot_out);

  LoadTail(b, shared);
  int end = 0;
  for (int block = 0;; ++block) {
    const FormTokens at(b.span, block);
    if (at.n <= 0) break;
    end = at.end;
    const bool sealed = b.span.position + at.t >= kBlockTokens;
    __syncthreads();  // The block before has been sealed, or the tail has been loaded.
    FillTokens(a, b, shared, at);
    // k S and q S of N tokens.
    for (int token = at.slot; sealed && token < end; token += N) {
      ReadState<2 * N>(
          b, in, s.key_dim, shared.partial,
          [&](int r) {
            const int t = min(token + r / 2, end - 1);
            return (r % 2 == 0 ? shared.k : shared.q) + t * b.key_padded;
          },
          [&](int r, int column, float product) {
            const int t = token + r / 2;
            if (t >= end) return;
            (r % 2 == 0 ? shared.k_state : shared.q_state)[t * kFormColumns + column] = product;
          });
    }
    Correct(a, b, shared, sealed, at);
    __syncthreads();
    if (end == kBlockTokens) {
      Seal(b, shared, sealed, in, out);
      in = out;
    }
  }
  KeepValues(b, shared, end);
  // What the tail keeps of the keys goes by way of scratch, since other blocks of threads may still
  // read the old ones.
  if (b.first != 0 || b.head % heads_per_key != 0) return;
  float* keys = a.keys + (static_cast<size_t>(blockIdx.y) * s.num_key_heads + b.key_head) *
                             kBlockTokens * b.key_padded;
  for (int i = threadIdx.x; i < end * b.key_padded; i += kFormThreads) keys[i] = shared.k[i];
}

// A token's output: norm and gate of one head.
__device__ __forceinline__ void FinishToken(const DeltaArguments& a, int token, int head) {
  const int span = a.batch.token_span[token];
  if (span < 0) return;
  const GatedDeltaShape& s = a.shape;
  const float* o =
      a.o + (static_cast<size_t>(token) * s.num_value_heads + head) * PadTo16(s.value_dim);
  float squares = 0.0f;
  for (int d = threadIdx.x; d < s.value_dim; d += kFormThreads) squares = fmaf(o[d], o[d], squares);
  auto* scratch = reinterpret_cast<float*>(SharedMemory());
  const float mean = BlockSum(squares, scratch) / static_cast<float>(s.value_dim);
  const float scale = 1.0f / sqrtf(mean + a.weights.norm_eps);
  for (int d = threadIdx.x; d < s.value_dim; d += kFormThreads) {
    const int channel = head * s.value_dim + d;
    const float gate =
        LoadValue(a.x.gate, static_cast<size_t>(token) * a.x.stride + channel, a.x.type);
    const float y = o[d] * scale * a.weights.norm[d] * Silu(gate);
    if (!IsFinite(y)) atomicOr(&a.totals[span].not_finite, 1u);
    const size_t to = static_cast<size_t>(token) * s.values() + channel;
    StoreValue(a.x.out, to, a.x.type, y);
  }
}

// A span's tail: keys and decays of the block in which it ends, and the convolution's inputs.
// Blocks of all heads share the work.
__device__ __forceinline__ void FinishTail(const DeltaArguments& a, int span_index, int head) {
  const BatchSpan span = a.batch.spans[span_index];
  if (span.num_tokens == 0) return;
  const GatedDeltaShape& s = a.shape;
  const GatedDeltaTailLayout layout(s);
  float* tail = TailOf(a.tails, span);
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
    for (int i = threadIdx.x; i < in_block * padded; i += kFormThreads) to[i] = keys[i];
  }
  KeepConvInputs(ConvOf(a, tail), span, head * kFormThreads + threadIdx.x,
                 s.num_value_heads * kFormThreads);
}

// Blocks: (tokens, then spans; value heads).
__global__ void __launch_bounds__(kFormThreads) GatedDeltaFinishKernel(DeltaArguments a) {
  AwaitPrevious();
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
  const int parts = FormPart::Parts(a.shape.value_dim);
  const auto kernel =
      a.x.state_type == DType::kF32 ? GatedDeltaKernel<N, float> : GatedDeltaKernel<N, BFloat16>;
  return Launch("GatedDelta", kernel, dim3(a.shape.num_value_heads * parts, a.batch.num_spans),
                kFormThreads, DeltaShared::Bytes(PadTo16(a.shape.key_dim), N), stream, a);
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
                dim3(batch.num_tokens + batch.num_spans, shape.num_value_heads), kFormThreads,
                kFormWarps * sizeof(float), stream, a);
}

}  // namespace packrat::gpu
