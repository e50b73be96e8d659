// The Mamba-2 mixer on a GPU, in three launches for decoding and for prompts alike. The first makes
// what the heads of a token share: B, C, their dot products within the block, and the decays. In
// the second, a block of threads goes through a span for 64 channels of one head: it reads the
// sealed state once for a few tokens at a time, and seals at the ends of blocks. The third gates
// and norms the outputs, and brings the tail up to date, which blocks of the others still read.
#include "kernels/mamba2.h"

#include <algorithm>

#include "kernels/mamba2.cuh"

namespace packrat::gpu {
namespace {

// Blocks: (blocks of a span times groups, spans).
__global__ void __launch_bounds__(kFormThreads) PrepareKernel(MambaArguments a) {
  AwaitPrevious();
  const Mamba2Shape& s = a.shape;
  const BatchSpan span = a.batch.spans[blockIdx.y];
  const int group = blockIdx.x % s.num_groups;
  const FormTokens at(span, blockIdx.x / s.num_groups);
  if (at.n <= 0) return;
  const Mamba2TokenLayout layout(s);
  const int padded = PadTo16(s.state_size), row = span.first_token + at.t;
  float* tail = TailOf(a.tails, span);
  const ConvInput conv = ConvOf(a, tail);
  for (int i = threadIdx.x; i < at.n * 2 * padded; i += kFormThreads) {
    const int token = i / (2 * padded), is_c = i / padded % 2, channel = i % padded;
    const int first = s.values() + is_c * s.keys() + group * s.state_size;
    MemoryOf(a, row + token)[(is_c ? layout.c : layout.b) + group * padded + channel] =
        channel < s.state_size ? ConvolvedChannel(conv, span, first + channel, at.t + token) : 0.0f;
  }
  for (int i = group * kFormThreads + threadIdx.x; i < at.n * s.num_heads;
       i += s.num_groups * kFormThreads) {
    const int token = i / s.num_heads, head = i % s.num_heads;
    const float dt = MambaStep(a, row + token, head);
    MemoryOf(a, row + token)[layout.dt + head] = dt;
    MemoryOf(a, row + token)[layout.log_decay + head] = -dt * a.weights.decay_rate[head];
  }
  __syncthreads();
  const float* earlier = tail + static_cast<size_t>(group) * kBlockTokens * padded;
  for (int pair = Warp(); pair < at.n * kBlockTokens; pair += kFormWarps) {
    const int token = pair / kBlockTokens, other = pair % kBlockTokens;
    if (other > at.slot + token) continue;
    float* memory = MemoryOf(a, row + token);
    const float* c = memory + layout.c + group * padded;
    const float* b = other < at.slot
                         ? earlier + other * padded
                         : MemoryOf(a, row + other - at.slot) + layout.b + group * padded;
    float sum = 0.0f;
    for (int i = Lane(); i < padded; i += kWarp) sum = fmaf(c[i], b[i], sum);
    sum = WarpSum(sum);
    if (Lane() == 0) memory[layout.dots + group * kBlockTokens + other] = sum;
  }
}

// What tokens [t, t + n) of the span, at `slot` of their block, bring to shared memory, and their
// decays and weights with the block's earlier tokens.
__device__ __forceinline__ void FillTokens(const MambaArguments& a, const FormPart& b,
                                           const MambaShared& shared, const FormTokens& at) {
  const Mamba2Shape& s = a.shape;
  const Mamba2TokenLayout layout(s);
  const int row = b.span.first_token + at.t;
  for (int i = threadIdx.x; i < at.n * b.key_padded; i += kFormThreads) {
    const int token = i / b.key_padded, channel = i % b.key_padded;
    const float* memory = MemoryOf(a, row + token) + b.key_head * b.key_padded + channel;
    const int to = (at.slot + token) * b.key_padded + channel;
    shared.k[to] = memory[layout.b], shared.c[to] = memory[layout.c];
  }
  for (int i = threadIdx.x; i < at.n * kFormColumns; i += kFormThreads) {
    const int token = i / kFormColumns, d = b.first + i % kFormColumns;
    const float x = d < s.head_dim
                        ? ConvolvedChannel(b.conv, b.span, b.head * s.head_dim + d, at.t + token)
                        : 0.0f;
    const float dt = MemoryOf(a, row + token)[layout.dt + b.head];
    shared.x[at.slot * kFormColumns + i] = x;
    shared.u[at.slot * kFormColumns + i] = dt * x;
  }
  if (static_cast<int>(threadIdx.x) < at.n) {
    shared.log_decay[at.slot + threadIdx.x] =
        MemoryOf(a, row + threadIdx.x)[layout.log_decay + b.head];
  }
  __syncthreads();
  FillDecays(shared, at);
  __syncthreads();
  for (int i = threadIdx.x; i < at.n * kBlockTokens; i += kFormThreads) {
    const int token = at.slot + i / kBlockTokens, other = i % kBlockTokens;
    if (other > token) continue;
    const int pair = token * kBlockTokens + other;
    const float* memory = MemoryOf(a, row + token - at.slot);
    shared.weights[pair] =
        shared.since[pair] * memory[layout.dots + b.key_head * kBlockTokens + other];
  }
  __syncthreads();
}

// y of the block's new tokens, to memory.
__device__ __forceinline__ void WriteOutputs(const MambaArguments& a, const FormPart& b,
                                             const MambaShared& shared, bool sealed,
                                             const FormTokens& at) {
  const Mamba2TokenLayout layout(a.shape);
  for (int i = threadIdx.x; i < at.n * kFormColumns; i += kFormThreads) {
    const int token = i / kFormColumns, column = i % kFormColumns, t = at.slot + token;
    if (b.first + column >= a.shape.head_dim) continue;
    const int own = t * kFormColumns + column;
    float y = sealed ? shared.read[own] * shared.decay[t] : 0.0f;
    for (int r = 0; r <= t; ++r) {
      y = fmaf(shared.weights[t * kBlockTokens + r], shared.u[r * kFormColumns + column], y);
    }
    MemoryOf(a, b.span.first_token + at.t +
                    token)[layout.y + b.head * a.shape.head_dim + b.first + column] =
        fmaf(a.weights.skip[b.head], shared.x[own], y);
  }
}

// Blocks: (heads times groups of channels, spans).
template <int N, class S>
__global__ void __launch_bounds__(kFormThreads, 4) ScanKernel(MambaArguments a) {
  AwaitPrevious();
  const Mamba2Shape& s = a.shape;
  const BatchSpan& span = a.batch.spans[blockIdx.y];
  if (span.num_tokens == 0) return;
  const Mamba2TailLayout layout(s);
  float* tail = TailOf(a.tails, span);
  const FormPart b(span, s.num_heads / s.num_groups, s.state_size, s.head_dim, tail + layout.b,
                   tail + layout.u, tail + layout.log_decay, ConvOf(a, tail));
  const MambaShared shared(SharedMemory(), b.key_padded, N);
  const auto state = [&](int slot) {
    return reinterpret_cast<S*>(a.slots.base + slot * a.slots.stride) +
           b.head * Mamba2HeadFloats(s);
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
    for (int token = at.slot; sealed && token < end; token += N) {
      ReadState<N>(
          b, in, s.state_size, shared.partial,
          [&](int r) { return shared.c + min(token + r, end - 1) * b.key_padded; },
          [&](int r, int column, float product) {
            if (token + r < end) shared.read[(token + r) * kFormColumns + column] = product;
          });
    }
    WriteOutputs(a, b, shared, sealed, at);
    if (end == kBlockTokens) {
      Seal(b, shared, sealed, in, out);
      in = out;
    }
  }
  KeepValues(b, shared, end);
}

// A token's outputs: gate and norm of one part of the channels.
__device__ __forceinline__ void FinishToken(const MambaArguments& a, int token, int part) {
  const int span = a.batch.token_span[token];
  if (span < 0) return;
  const Mamba2Weights& w = a.weights;
  const int values = a.shape.values(), width = values / static_cast<int>(gridDim.y);
  float* y = MemoryOf(a, token) + Mamba2TokenLayout(a.shape).y + part * width;
  const auto gate = [&](int d) {
    const size_t at = static_cast<size_t>(token) * a.x.stride + part * width + d;
    return Silu(LoadValue(a.x.gate, at, a.x.type) * w.gate_scale);
  };
  const bool normed = w.gating != Mamba2Norm::kNone;
  const bool gated_last = w.gating == Mamba2Norm::kBeforeGate;
  float squares = 0.0f;
  for (int d = threadIdx.x; d < width; d += kFormThreads) {
    if (!gated_last) y[d] *= gate(d);
    squares = fmaf(y[d], y[d], squares);
  }
  auto* scratch = reinterpret_cast<float*>(SharedMemory());
  const float mean = BlockSum(squares, scratch) / static_cast<float>(width);
  const float scale = 1.0f / sqrtf(mean + w.norm_eps);
  for (int d = threadIdx.x; d < width; d += kFormThreads) {
    float v = y[d];
    if (normed) v = v * scale * w.norm[part * width + d];
    if (gated_last) v *= gate(d);
    if (!IsFinite(v)) atomicOr(&a.totals[span].not_finite, 1u);
    const size_t to = static_cast<size_t>(token) * values + part * width + d;
    StoreValue(a.x.out, to, a.x.type, v);
  }
}

// A span's tail: B and decays of the block in which it ends, and the convolution's inputs. Blocks
// of all parts share the work.
__device__ __forceinline__ void FinishTail(const MambaArguments& a, int span_index, int part) {
  const BatchSpan span = a.batch.spans[span_index];
  if (span.num_tokens == 0) return;
  const Mamba2Shape& s = a.shape;
  const Mamba2TailLayout layout(s);
  const Mamba2TokenLayout memory(s);
  const int thread = part * kFormThreads + threadIdx.x;
  const int threads = static_cast<int>(gridDim.y) * kFormThreads;
  float* tail = TailOf(a.tails, span);
  const int begin = span.position % kBlockTokens;
  const FormTokens at(span, (begin + span.num_tokens - 1) / kBlockTokens);
  const int keys = s.num_groups * PadTo16(s.state_size), width = PadTo16(s.state_size);
  for (int i = thread; i < at.n * keys; i += threads) {
    const int token = i / keys, key = i % keys;
    tail[(static_cast<size_t>(key / width) * kBlockTokens + at.slot + token) * width +
         key % width] = MemoryOf(a, span.first_token + at.t + token)[memory.b + key];
  }
  for (int i = thread; i < at.n * s.num_heads; i += threads) {
    const int token = i / s.num_heads, head = i % s.num_heads;
    tail[layout.log_decay + head * kBlockTokens + at.slot + token] =
        MemoryOf(a, span.first_token + at.t + token)[memory.log_decay + head];
  }
  KeepConvInputs(ConvOf(a, tail), span, thread, threads);
}

// Blocks: (tokens, then spans; parts of the norm).
__global__ void __launch_bounds__(kFormThreads) FinishKernel(MambaArguments a) {
  AwaitPrevious();
  const int index = blockIdx.x, part = blockIdx.y;
  if (index < a.batch.num_tokens) {
    FinishToken(a, index, part);
  } else {
    FinishTail(a, index - a.batch.num_tokens, part);
  }
}

template <int N>
absl::Status LaunchScan(const MambaArguments& a, CudaStream stream) {
  const int parts = FormPart::Parts(a.shape.head_dim);
  const auto kernel =
      a.x.state_type == DType::kF32 ? ScanKernel<N, float> : ScanKernel<N, BFloat16>;
  return Launch("Mamba2Scan", kernel, dim3(a.shape.num_heads * parts, a.batch.num_spans),
                kFormThreads, MambaShared::Bytes(PadTo16(a.shape.state_size), N), stream, a);
}

}  // namespace

size_t Mamba2SharedBytes(const Mamba2Shape& shape) {
  return MambaShared::Bytes(PadTo16(shape.state_size), 4);
}

absl::Status Mamba2(const Mamba2Shape& shape, const Mamba2Weights& weights, const BatchView& batch,
                    const StateParts& slots, const StateParts& tails,
                    const Mamba2Operands& operands, SpanTotals* totals, CudaStream stream) {
  if (batch.num_tokens == 0 || batch.num_spans == 0) return absl::OkStatus();
  const MambaArguments a{shape, weights, batch, slots, tails, operands, totals};
  // A span of n tokens has at most this many blocks.
  const int blocks = (batch.max_span_tokens + 2 * kBlockTokens - 2) / kBlockTokens;
  absl::Status status =
      Launch("Mamba2Prepare", PrepareKernel, dim3(blocks * shape.num_groups, batch.num_spans),
             kFormThreads, 0, stream, a);
  if (!status.ok()) return status;
  status = batch.max_span_tokens == 1 ? LaunchScan<1>(a, stream) : LaunchScan<4>(a, stream);
  if (!status.ok()) return status;
  const int parts = weights.gating == Mamba2Norm::kNone ? 1 : weights.norm_groups;
  return Launch("Mamba2Finish", FinishKernel, dim3(batch.num_tokens + batch.num_spans, parts),
                kFormThreads, kFormWarps * sizeof(float), stream, a);
}

}  // namespace packrat::gpu
