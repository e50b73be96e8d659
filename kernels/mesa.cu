// The Mesa layer on a GPU. A token that comes alone takes one launch, a block of threads for each
// span and head: the sealed state is on its way into shared memory while the token is convolved,
// H_kk goes on into registers, and H_kv arrives while the system is being solved. Spans of several
// tokens take five launches: Prepare (every token by itself), Scan (the sealed states of all blocks
// of tokens, one warp for each tile), Solve (all blocks side by side, before the scan the few whose
// sealed state it will overwrite), and Keep (the tail).
//
// Both ways do the same arithmetic in the same order.
#include "kernels/mesa.h"

#include "kernels/mesa_solve.cuh"
#include "kernels/mesa_state.cuh"

namespace packrat::gpu {
namespace {

constexpr int kScanThreads = 256, kKeepThreads = 128;

// --- Decoding. ---

// The shared memory of a decoding block: what the solver needs, the read-out's partial sums, then
// H_kk and H_kv as they are stored, where both fit.
template <int P>
struct alignas(128) DecodeShared {
  MesaShared<P, 1> solver;
  float partial[4 * P];
};
template <int P, class S>
size_t DecodeSharedBytes(int head_dim) {
  return sizeof(DecodeShared<P>) +
         (kTileInRegisters<P> ? MesaHeadFloats(head_dim) * sizeof(S) : 0);
}

// Output norm and gate of one channel; `o` (this channel's) and `squares`, the sum over all.
__device__ __forceinline__ void Finish(const MesaArguments& a, const MesaHead& h, int row, float o,
                                       float squares, float norm, float gate, GpuStats* stats) {
  if (static_cast<int>(threadIdx.x) >= h.dim) return;
  const float mean = squares / static_cast<float>(h.dim);
  float y = o * (1.0f / sqrtf(mean + a.weights.norm_eps)) * norm;
  if (a.x.gate != nullptr) y *= Silu(gate);
  if (!IsFinite(y)) atomicOr(&stats->not_finite, 1u);
  const size_t to = static_cast<size_t>(row) * h.width + h.index * h.dim + threadIdx.x;
  if (a.x.type == DType::kF32) {
    static_cast<float*>(a.x.out)[to] = y;
  } else {
    static_cast<BFloat16*>(a.x.out)[to] = FromFloat<BFloat16>(y);
  }
}
__device__ __forceinline__ float LoadGate(const MesaArguments& a, const MesaHead& h, int row) {
  if (a.x.gate == nullptr || static_cast<int>(threadIdx.x) >= h.dim) return 0.0f;
  const int channel = h.index * h.dim + static_cast<int>(threadIdx.x);
  return LoadValue(a.x.gate, static_cast<size_t>(row) * a.x.stride + channel, a.x.type);
}

// The block's end: seals the state that lies in shared memory (or in the slot itself) with the
// sixteen tokens of the tail, of which v is read where it is kept.
template <int P, class S>
__device__ __forceinline__ void SealDecoded(const MesaHead& h, bool sealed, const S* hkk,
                                            const S* hkv, const MesaShared<P, 1>& shared, S* out) {
  const float coefficient = shared.coefficients[Lane() % kMesaBlock];
  const size_t hkk_floats = MesaHkkFloats(h.dim);
  for (int index = Warp(); index < MesaTiles(h.stored); index += P / kWarp) {
    const MesaTile tile = TileAt(index, h.stored);
    float sum[8] = {};
    if (sealed && tile.hkk) {
      const int row = Lane() / 2, column = Lane() % 2 * 8;
      constexpr bool kSwizzled = kTileInRegisters<P>;
      Load4(hkk + HkkOffset<S, kSwizzled>(tile.i, tile.j, row, column), sum);
      Load4(hkk + HkkOffset<S, kSwizzled>(tile.i, tile.j, row, column + 4), sum + 4);
    } else if (sealed) {
      Load8(hkv + (tile.offset - hkk_floats), sum);
    }
    const auto left = [&](int s) { return shared.k + s * P + tile.i * 16; };
    if (tile.hkk) {
      UpdateTile(tile, sealed, shared.decay[0], coefficient, left,
                 [&](int s) { return shared.k + s * P + tile.j * 16; }, sum);
    } else {
      UpdateTile(tile, sealed, shared.decay[0], coefficient, left,
                 [&](int s) { return h.v + s * h.stored + tile.j * 16; }, sum);
    }
    Store8(sum, out + tile.offset);
  }
}

// Blocks: (heads, spans).
template <int P, class S>
__global__ void __launch_bounds__(P, P == 128 ? 2 : 1) MesaDecodeKernel(MesaArguments a) {
  const GpuSpan span = a.batch.spans[blockIdx.y];
  if (span.num_tokens != 1) return;
  auto* memory = reinterpret_cast<DecodeShared<P>*>(SharedMemory());
  MesaShared<P, 1>& shared = memory->solver;
  const MesaHead h = OpenHead(a, span, blockIdx.x);
  const int slot = span.position % kMesaBlock, blocks = h.stored / 16;
  const int channel = threadIdx.x;
  const bool sealed = span.position >= kMesaBlock, mine = channel < h.stored;

  // What comes from far is asked for first.
  const S* hkk = SlotState<S>(a, span.slot_in, h.index);
  const S* hkv = hkk + MesaHkkFloats(h.dim);
  for (int at = threadIdx.x * 4; at < slot * h.stored; at += P * 4) {
    CopyAsync16(shared.k + at / h.stored * P + at % h.stored, h.k + at);
  }
  if constexpr (kTileInRegisters<P>) {
    auto* to = reinterpret_cast<S*>(memory + 1);
    if (sealed) CopyHkk(hkk, blocks, to);
    CopyAsyncCommit();
    constexpr int kGroup = 16 / static_cast<int>(sizeof(S));
    for (int at = threadIdx.x * kGroup; sealed && at < h.stored * h.stored; at += P * kGroup) {
      CopyAsync16(to + MesaHkkFloats(h.dim) + at, hkv + at);
    }
    hkk = to;
    hkv = to + MesaHkkFloats(h.dim);
  } else {
    CopyAsyncCommit();
  }
  CopyAsyncCommit();
  float v[kMesaBlock];
#pragma unroll
  for (int s = 0; s < kMesaBlock; ++s) {
    v[s] = mine && s < slot ? h.v[s * h.stored + channel] : 0.0f;
  }
  const float gate = LoadGate(a, h, span.first_token);
  const float norm = channel < h.dim ? a.weights.o_norm[channel] : 0.0f;
  const float lambda = channel < h.dim ? a.weights.lambda[h.index * h.dim + channel] : 1.0f;
  float lane_log_gamma = 0.0f, lane_beta = 0.0f;
  if (Lane() < slot) lane_log_gamma = h.log_gamma[Lane()], lane_beta = h.beta[Lane()];

  const MesaToken token = PrepareToken<P>(a, h, span.first_token, span.position, span.position,
                                          shared.partial_a);
  if (a.shape.conv_size > 1 && channel < h.dim) {
    KeepHistory(a, h, channel, span.first_token, span.position);
  }
  if (mine) {
    h.k[slot * h.stored + channel] = token.k;
    h.v[slot * h.stored + channel] = token.v;
  }
  if (channel == 0) h.beta[slot] = token.beta, h.log_gamma[slot] = token.log_gamma;
#pragma unroll
  for (int s = 0; s < kMesaBlock; ++s) {
    if (s == slot) v[s] = token.v;
    if (s == slot) shared.k[s * P + channel] = token.k;
    if (s > slot || (s < slot && !mine)) shared.k[s * P + channel] = 0.0f;
  }
  if (Warp() == 0) {
    if (Lane() == slot) lane_log_gamma = token.log_gamma, lane_beta = token.beta;
    const float sum = Cumulative(lane_log_gamma), now = __shfl_sync(kAllLanes, sum, slot);
    if (Lane() < kMesaBlock) {
      shared.coefficients[Lane()] = Lane() <= slot ? expf(now - sum) * lane_beta : 0.0f;
    }
    if (Lane() == 0) shared.decay[0] = expf(now);
  }
  CopyAsyncWait<1>();
  __syncthreads();

  SolverTile<P, S> tile;
  if (sealed) LoadTile(hkk, blocks, &tile);
  LoadTailRows(shared.k, &tile);
  const MesaSolved solved = Solve<P, 1>(
      tile, {sealed, lambda, span.cg_tolerance, span.cg_max_steps}, 1,
      [&](int) { return token.q; }, &shared);
  GpuStats* stats = &a.stats[blockIdx.y];
  if (Warp() == 0) Record(solved, 1, stats);
  CopyAsyncWait<0>();
  __syncthreads();

  float unused[1];
  Apply<P, 1, 1, true>(tile, sealed, 0.0f, shared.x, {0}, &shared, unused);
  if (sealed) ReadSealed(shared, hkv, h.stored, memory->partial);
  __syncthreads();
  const float o = ReadOut<P, 1>(shared, memory->partial, sealed, 0, v);
  const float squares = BlockSum(o * o, shared.partial_a);
  Finish(a, h, span.first_token, o, squares, norm, gate, stats);
  if (slot == kMesaBlock - 1) {
    SealDecoded(h, sealed, hkk, hkv, shared, SlotState<S>(a, span.slot_out, h.index));
  }
}

// --- Prompts. ---

// What the finished blocks of a span of several tokens leave behind.
struct MesaBlocks {
  int finished;    // Blocks that end in the span.
  bool in_place;   // The last one's state goes where the first one's comes from.
  bool late;       // ... and waits for that in the first block's place of the scratch.
};
__device__ __forceinline__ MesaBlocks BlocksOf(const GpuSpan& span) {
  MesaBlocks b;
  b.finished = (span.position + span.num_tokens) / kMesaBlock - span.position / kMesaBlock;
  b.in_place = span.slot_in == span.slot_out && span.position >= kMesaBlock && b.finished > 0;
  b.late = b.in_place && span.position % kMesaBlock == 0;
  return b;
}
// The scratch state that a whole block of the batch owns, given its first token: that which it
// starts from or, for the first of a span, that which the span ends with.
__device__ __forceinline__ int StateIndex(int token) { return (token + kMesaBlock - 1) / kMesaBlock; }

template <class S>
__device__ __forceinline__ S* LastState(const MesaArguments& a, const GpuSpan& span,
                                        const MesaBlocks& blocks, int head) {
  return blocks.late ? ScratchState<S>(a, StateIndex(span.first_token), head)
                     : SlotState<S>(a, span.slot_out, head);
}

// Row s of a block whose row 0 would be token `first` of the batch: from the tail up to `from_tail`.
struct MesaRows {
  const float *tail, *fresh;
  int from_tail, stride;
  __device__ MesaRows(const float* tail_rows, const float* scratch, int head, int tokens,
                      int first, int from_tail_rows, int row_stride)
      : tail(tail_rows),
        fresh(scratch + (static_cast<ptrdiff_t>(head) * tokens + first) * row_stride),
        from_tail(from_tail_rows),
        stride(row_stride) {}
  __device__ const float* operator()(int s) const {
    return (s < from_tail ? tail : fresh) + s * stride;
  }
};

// Blocks: (tokens, heads).
template <int P>
__global__ void __launch_bounds__(P) MesaPrepareKernel(MesaArguments a) {
  const int row = blockIdx.x, head = blockIdx.y, index = a.batch.token_span[row];
  if (index < 0) return;
  const GpuSpan span = a.batch.spans[index];
  if (span.num_tokens < 2) return;
  auto* scratch = reinterpret_cast<float*>(SharedMemory());
  const MesaHead h = OpenHead(a, span, head);
  const MesaToken token = PrepareToken<P>(a, h, row, span.position + row - span.first_token,
                                          span.position, scratch);
  const size_t scalar = static_cast<size_t>(head) * a.batch.num_tokens + row;
  if (static_cast<int>(threadIdx.x) < h.stored) {
    const size_t at = scalar * h.stored + threadIdx.x;
    a.q[at] = token.q;
    a.k[at] = token.k;
    a.v[at] = token.v;
  }
  if (threadIdx.x == 0) a.beta[scalar] = token.beta, a.log_gamma[scalar] = token.log_gamma;
}

// Blocks: (groups of tiles, heads, spans); a warp for each tile of the state, which stays in its
// registers from block to block of the text.
template <class S>
__global__ void __launch_bounds__(kScanThreads) MesaScanKernel(MesaArguments a) {
  const GpuSpan span = a.batch.spans[blockIdx.z];
  if (span.num_tokens < 2) return;
  const MesaBlocks blocks = BlocksOf(span);
  const int head = blockIdx.y, tokens = a.batch.num_tokens;
  const MesaHead h = OpenHead(a, span, head);
  const int index = blockIdx.x * (kScanThreads / kWarp) + Warp();
  if (blocks.finished == 0 || index >= MesaTiles(h.stored)) return;
  const MesaTile tile = TileAt(index, h.stored);
  bool sealed = span.position >= kMesaBlock;
  float sum[8] = {};
  if (sealed) Load8(SlotState<S>(a, span.slot_in, head) + tile.offset, sum);
  int from_tail = span.position % kMesaBlock;
  int first = span.first_token - from_tail;
  for (int b = 0; b < blocks.finished; ++b, first += kMesaBlock, from_tail = 0) {
    const MesaRows k(h.k, a.k, head, tokens, first, from_tail, h.stored);
    const MesaRows v(h.v, a.v, head, tokens, first, from_tail, h.stored);
    const MesaRows beta(h.beta, a.beta, head, tokens, first, from_tail, 1);
    const MesaRows log_gamma(h.log_gamma, a.log_gamma, head, tokens, first, from_tail, 1);
    if (b > 0) Store8(sum, ScratchState<S>(a, StateIndex(first), head) + tile.offset);
    const float cumulative = Cumulative(*log_gamma(Lane() % kMesaBlock));
    const float end = __shfl_sync(kAllLanes, cumulative, kMesaBlock - 1);
    const float coefficient = expf(end - cumulative) * *beta(Lane() % kMesaBlock);
    const auto left = [&](int s) { return k(s) + tile.i * 16; };
    if (tile.hkk) {
      UpdateTile(tile, sealed, expf(end), coefficient, left,
                 [&](int s) { return k(s) + tile.j * 16; }, sum);
    } else {
      UpdateTile(tile, sealed, expf(end), coefficient, left,
                 [&](int s) { return v(s) + tile.j * 16; }, sum);
    }
    // As it would be read back.
#pragma unroll
    for (int j = 0; j < 8; ++j) sum[j] = ToFloat(FromFloat<S>(sum[j]));
    sealed = true;
  }
  Store8(sum, LastState<S>(a, span, blocks, head) + tile.offset);
}

// Sixteen systems; H_kk gives its place to the read-out's partial sums.
template <int P, class S>
size_t SolveSharedBytes(int head_dim) {
  const size_t hkk = kTileInRegisters<P> ? MesaHkkFloats(head_dim) * sizeof(S) : 0;
  const size_t partial = size_t{4} * kMesaBlock * P * sizeof(float);
  return sizeof(MesaShared<P, kMesaBlock>) + (hkk > partial ? hkk : partial);
}

// The tokens of one block of a span, by the block's first token in the batch.
template <int P, class S>
__device__ void SolveBlock(const MesaArguments& a, const GpuSpan& span, const MesaBlocks& blocks,
                           int first, int head, GpuStats* stats) {
  constexpr int N = kMesaBlock;
  MesaShared<P, N>& shared = *reinterpret_cast<MesaShared<P, N>*>(SharedMemory());
  auto* rest = reinterpret_cast<std::byte*>(&shared + 1);
  const MesaHead h = OpenHead(a, span, head);
  const int offset = first - span.first_token, position = span.position + offset;
  const int slot = position % N, n = min(N - slot, span.num_tokens - offset);
  const int channel = threadIdx.x, tokens = a.batch.num_tokens;
  const bool sealed = position >= N, mine = channel < h.stored;
  const S* hkk = offset == 0 ? SlotState<S>(a, span.slot_in, head)
                 : n == N    ? ScratchState<S>(a, StateIndex(first), head)
                             : LastState<S>(a, span, blocks, head);
  const S* hkv = hkk + MesaHkkFloats(h.dim);
  if constexpr (kTileInRegisters<P>) {
    auto* to = reinterpret_cast<S*>(rest);
    if (sealed) CopyHkk(hkk, h.stored / 16, to);
    hkk = to;
  }
  CopyAsyncCommit();
  const MesaRows k(h.k, a.k, head, tokens, first - slot, slot, h.stored);
  const MesaRows v(h.v, a.v, head, tokens, first - slot, slot, h.stored);
  const MesaRows beta(h.beta, a.beta, head, tokens, first - slot, slot, 1);
  const MesaRows log_gamma(h.log_gamma, a.log_gamma, head, tokens, first - slot, slot, 1);
#pragma unroll
  for (int s = 0; s < N; ++s) {
    shared.k[s * P + channel] = mine && s < slot + n ? k(s)[channel] : 0.0f;
  }
  const bool row_here = Lane() < slot + n;
  const float sum = Cumulative(row_here ? *log_gamma(Lane()) : 0.0f);
  const float lane_beta = row_here ? *beta(Lane()) : 0.0f;
  for (int t = Warp(); t < N; t += P / kWarp) {
    const float now = __shfl_sync(kAllLanes, sum, min(slot + t, N - 1));
    if (Lane() < N) {
      shared.coefficients[t * N + Lane()] =
          Lane() <= slot + t && t < n ? expf(now - sum) * lane_beta : 0.0f;
    }
    if (Lane() == 0) shared.decay[t] = expf(now);
  }
  for (int t = 0; t < N; ++t) shared.x[t * P + channel] = 0.0f;
  CopyAsyncWait<0>();
  __syncthreads();

  SolverTile<P, S> tile;
  if (sealed) LoadTile(hkk, h.stored / 16, &tile);
  LoadTailRows(shared.k, &tile);
  const float lambda = channel < h.dim ? a.weights.lambda[head * h.dim + channel] : 1.0f;
  const float* q = a.q + (static_cast<size_t>(head) * tokens + first) * h.stored + channel;
  const MesaSolved solved =
      Solve<P, N>(tile, {sealed, lambda, span.cg_tolerance, span.cg_max_steps}, n,
                  [&](int t) { return mine ? q[t * h.stored] : 0.0f; }, &shared);
  if (Warp() == 0) Record(solved, n, stats);
  __syncthreads();

  auto* partial = reinterpret_cast<float*>(rest);
  for (int t = 0; t < n; ++t) {
    float unused[1];
    Apply<P, N, 1, true>(tile, sealed, 0.0f, shared.x, {t}, &shared, unused);
  }
  if (sealed) ReadSealed(shared, hkv, h.stored, partial);
  __syncthreads();
  float values[N];
#pragma unroll
  for (int s = 0; s < N; ++s) values[s] = mine && s < slot + n ? v(s)[channel] : 0.0f;
  for (int t = 0; t < n; ++t) {
    const float o = ReadOut(shared, partial, sealed, t, values);
    shared.y[t * P + channel] = o;
    const float squares = WarpSum(o * o);
    if (Lane() == 0) shared.partial_a[t * (P / kWarp) + Warp()] = squares;
  }
  __syncthreads();
  const float norm = channel < h.dim ? a.weights.o_norm[channel] : 0.0f;
  for (int t = 0; t < n; ++t) {
    Finish(a, h, first + t, shared.y[t * P + channel], SumPartials<P>(shared.partial_a, t), norm,
           LoadGate(a, h, first + t), stats);
  }
}

// early: blocks (spans, heads), for the first block of spans whose sealed state the scan is about
// to overwrite. Else (tokens, heads), for all others, by their first token.
template <int P, class S>
__global__ void __launch_bounds__(P, P == 128 ? 2 : 1)
    MesaSolveKernel(MesaArguments a, bool early) {
  const int index = early ? static_cast<int>(blockIdx.x) : a.batch.token_span[blockIdx.x];
  if (index < 0) return;
  const GpuSpan span = a.batch.spans[index];
  if (span.num_tokens < 2) return;
  const MesaBlocks blocks = BlocksOf(span);
  const int first = early ? span.first_token : static_cast<int>(blockIdx.x);
  const int offset = first - span.first_token;
  if (offset != 0 && (span.position + offset) % kMesaBlock != 0) return;
  const bool overwritten = offset == 0 && blocks.in_place && !blocks.late;
  if (overwritten != early) return;
  SolveBlock<P, S>(a, span, blocks, first, blockIdx.y, &a.stats[index]);
}

// What is left to be kept of a span: the rows of its unfinished block, the inputs of the
// convolutions, and a state that had to wait. Blocks: (spans, heads).
template <class S>
__global__ void __launch_bounds__(kKeepThreads) MesaKeepKernel(MesaArguments a) {
  const GpuSpan span = a.batch.spans[blockIdx.x];
  if (span.num_tokens < 2) return;
  const int head = blockIdx.y, tokens = a.batch.num_tokens;
  const MesaHead h = OpenHead(a, span, head);
  const int end = span.position + span.num_tokens, slots = end % kMesaBlock;
  const int from = max(0, slots - span.num_tokens);  // Rows before are in the tail already.
  const int first = span.first_token + span.num_tokens - slots;
  const MesaRows k(nullptr, a.k, head, tokens, first, 0, h.stored);
  const MesaRows v(nullptr, a.v, head, tokens, first, 0, h.stored);
  for (int at = from * h.stored + threadIdx.x; at < slots * h.stored; at += kKeepThreads) {
    h.k[at] = k(0)[at];
    h.v[at] = v(0)[at];
  }
  const int s = threadIdx.x;
  if (s >= from && s < slots) {
    h.beta[s] = *MesaRows(nullptr, a.beta, head, tokens, first, 0, 1)(s);
    h.log_gamma[s] = *MesaRows(nullptr, a.log_gamma, head, tokens, first, 0, 1)(s);
  }
  const int keep = a.shape.conv_size - 1;
  for (int t = max(0, span.num_tokens - keep); t < span.num_tokens; ++t) {
    for (int d = threadIdx.x; d < h.dim; d += kKeepThreads) {
      KeepHistory(a, h, d, span.first_token + t, span.position + t);
    }
  }
  const MesaBlocks blocks = BlocksOf(span);
  if (!blocks.late) return;
  const auto* state = reinterpret_cast<const uint4*>(LastState<S>(a, span, blocks, head));
  auto* slot = reinterpret_cast<uint4*>(SlotState<S>(a, span.slot_out, head));
  const int n = static_cast<int>(MesaHeadFloats(h.dim) * sizeof(S) / sizeof(uint4));
#pragma unroll 4
  for (int i = threadIdx.x; i < n; i += kKeepThreads) slot[i] = state[i];
}

// --- Launching. ---

template <int P, class S>
absl::Status Launches(const MesaArguments& a, CudaStream stream) {
  const int heads = a.shape.num_heads, dim = a.shape.head_dim;
  const int spans = a.batch.num_spans, tokens = a.batch.num_tokens;
  const int blocks = PadTo16(dim) / 16, tiles = blocks * (blocks + 1) / 2 + blocks * blocks;
  const int warps = kScanThreads / kWarp;
  const size_t solve_bytes = SolveSharedBytes<P, S>(dim);
  absl::Status decode = Launch("MesaDecode", MesaDecodeKernel<P, S>, dim3(heads, spans), P,
                               DecodeSharedBytes<P, S>(dim), stream, a);
  if (a.batch.max_span_tokens == 1 || !decode.ok()) return decode;
  absl::Status prepare = Launch("MesaPrepare", MesaPrepareKernel<P>, dim3(tokens, heads), P,
                                2 * P / kWarp * sizeof(float), stream, a);
  if (!prepare.ok()) return prepare;
  absl::Status early = Launch("MesaSolve", MesaSolveKernel<P, S>, dim3(spans, heads), P,
                              solve_bytes, stream, a, true);
  if (!early.ok()) return early;
  absl::Status scan =
      Launch("MesaScan", MesaScanKernel<S>, dim3((tiles + warps - 1) / warps, heads, spans),
             kScanThreads, 0, stream, a);
  if (!scan.ok()) return scan;
  absl::Status solve = Launch("MesaSolve", MesaSolveKernel<P, S>, dim3(tokens, heads), P,
                              solve_bytes, stream, a, false);
  if (!solve.ok()) return solve;
  return Launch("MesaKeep", MesaKeepKernel<S>, dim3(spans, heads), kKeepThreads, 0, stream, a);
}

template <class S>
absl::Status LaunchesOfState(const MesaArguments& a, CudaStream stream) {
  if (a.shape.head_dim <= 64) return Launches<64, S>(a, stream);
  if (a.shape.head_dim <= 128) return Launches<128, S>(a, stream);
  return Launches<256, S>(a, stream);
}

// Floats of each part of the scratch, in the order of MesaArguments.
struct ScratchLayout {
  size_t rows, scalars, states;
  ScratchLayout(const MesaShape& shape, int tokens) {
    const size_t heads = shape.num_heads;
    rows = heads * tokens * PadTo16(shape.head_dim);
    scalars = (heads * tokens + 31) / 32 * 32;
    states = (static_cast<size_t>(tokens) / kMesaBlock + 1) *
             MesaSlotFloats(shape.num_heads, shape.head_dim);
  }
};

}  // namespace

size_t MesaScratchBytes(const MesaShape& shape, int max_spans, int max_tokens) {
  const ScratchLayout layout(shape, max_tokens);
  return (3 * layout.rows + 2 * layout.scalars + layout.states) * sizeof(float);
}

absl::Status Mesa(const MesaShape& shape, const MesaWeights& weights, const GpuBatch& batch,
                  const GpuParts& slots, const GpuParts& tails, const MesaOperands& operands,
                  GpuStats* stats, void* scratch, CudaStream stream) {
  if (batch.num_spans == 0 || batch.num_tokens == 0) return absl::OkStatus();
  const ScratchLayout layout(shape, batch.num_tokens);
  MesaArguments a{shape, weights, batch, slots, tails, operands, stats};
  a.states = static_cast<std::byte*>(scratch);
  a.q = static_cast<float*>(scratch) + layout.states;
  a.k = a.q + layout.rows;
  a.v = a.k + layout.rows;
  a.beta = a.v + layout.rows;
  a.log_gamma = a.beta + layout.scalars;
  return operands.state_type == DType::kF32 ? LaunchesOfState<float>(a, stream)
                                            : LaunchesOfState<BFloat16>(a, stream);
}

}  // namespace packrat::gpu
