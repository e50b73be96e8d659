// The Mesa layer's kernels for spans of several tokens, in the order of their launches: Prepare
// (every token by itself), Solve (the few blocks of tokens whose sealed state the scan overwrites),
// Scan (the sealed states of all blocks), Solve (all other blocks, side by side), Keep (the tail).
#ifndef PACKRAT_KERNELS_MESA_PROMPT_CUH_
#define PACKRAT_KERNELS_MESA_PROMPT_CUH_

#include <algorithm>

#include "kernels/device.cuh"
#include "kernels/mesa.h"
#include "kernels/mesa_read.cuh"
#include "kernels/mesa_solve.cuh"
#include "kernels/mesa_state.cuh"

namespace packrat::gpu {

constexpr int kScanThreads = 128, kScanWarps = kScanThreads / kWarp, kKeepThreads = 128;
constexpr int kScanStages = 3, kScanColumns = kScanWarps * 16;

// What the finished blocks of a span of several tokens leave behind.
struct MesaBlocks {
  int finished;   // Blocks that end in the span.
  bool in_place;  // The last one's state goes where the first one's comes from.
  bool late;      // ... and waits for that in the first block's place of the scratch.
};
__device__ __forceinline__ MesaBlocks BlocksOf(const BatchSpan& span) {
  MesaBlocks b;
  b.finished = (span.position + span.num_tokens) / kBlockTokens - span.position / kBlockTokens;
  b.in_place = span.slot_in == span.slot_out && span.position >= kBlockTokens && b.finished > 0;
  b.late = b.in_place && span.position % kBlockTokens == 0;
  return b;
}
// The scratch state that a whole block of the batch owns, given its first token: that which it
// starts from or, for the first of a span, that which the span ends with.
__device__ __forceinline__ int StateIndex(int token) {
  return (token + kBlockTokens - 1) / kBlockTokens;
}

template <class S>
__device__ __forceinline__ S* LastState(const MesaArguments& a, const BatchSpan& span,
                                        const MesaBlocks& blocks, int head) {
  return blocks.late ? ScratchState<S>(a, StateIndex(span.first_token), head)
                     : SlotState<S>(a, span.slot_out, head);
}

// Row s of a block whose row 0 would be token `first` of the batch: from the tail up to
// `from_tail`.
struct MesaRows {
  const float *tail, *fresh;
  int from_tail, stride;
  __device__ MesaRows(const float* tail_rows, const float* scratch, int head, int tokens, int first,
                      int from_tail_rows, int row_stride)
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
  AwaitPrevious();
  const int row = blockIdx.x, head = blockIdx.y, index = a.batch.token_span[row];
  if (index < 0) return;
  const BatchSpan span = a.batch.spans[index];
  if (span.num_tokens < 2) return;
  auto* scratch = reinterpret_cast<float*>(SharedMemory());
  const MesaHead h = OpenHead(a, span, head);
  const MesaToken token =
      PrepareToken<P>(a, h, row, span.position + row - span.first_token, span.position, scratch);
  const size_t scalar = static_cast<size_t>(head) * a.batch.num_tokens + row;
  if (static_cast<int>(threadIdx.x) < h.stored) {
    const size_t at = scalar * h.stored + threadIdx.x;
    a.q[at] = token.q;
    a.k[at] = token.k;
    a.v[at] = token.v;
  }
  if (threadIdx.x == 0) a.beta[scalar] = token.beta, a.log_gamma[scalar] = token.log_gamma;
}

// Rows of a block of tokens: k, and what the strips of H_kv need of v.
template <int P>
struct ScanStage {
  float k[kBlockTokens * P];
  float v[kBlockTokens * kScanColumns];
};
template <int P>
struct ScanShared {
  ScanStage<P> stages[kScanStages];
  // Of kScanThreads blocks of tokens, a thread for each.
  float coefficients[kScanThreads * kBlockTokens], decay[kScanThreads];
};

// The coefficients of a block of tokens, added up in the order of Cumulative().
__device__ __forceinline__ void WeighBlock(const MesaRows& log_gamma, const MesaRows& beta,
                                           float* coefficients, float* decay) {
  float cumulative[kBlockTokens], sum = 0.0f;
#pragma unroll
  for (int s = 0; s < kBlockTokens; ++s) {
    sum += *log_gamma(s);
    cumulative[s] = sum;
  }
#pragma unroll
  for (int s = 0; s < kBlockTokens; ++s) coefficients[s] = expf(sum - cumulative[s]) * *beta(s);
  *decay = expf(sum);
}

// Blocks: (groups of strips, heads, spans); a warp for each strip of the state, which stays in its
// registers from block to block of the text, while the rows of the next ones are on their way.
template <int P, class S>
__global__ void __launch_bounds__(kScanThreads, 3) MesaScanKernel(MesaArguments a) {
  AwaitPrevious();
  const BatchSpan span = a.batch.spans[blockIdx.z];
  if (span.num_tokens < 2) return;
  const MesaBlocks blocks = BlocksOf(span);
  if (blocks.finished == 0) return;
  auto& shared = *reinterpret_cast<ScanShared<P>*>(SharedMemory());
  const int head = blockIdx.y, tokens = a.batch.num_tokens;
  const MesaHead h = OpenHead(a, span, head);
  const int strips = MesaStrips(h.stored), begin = static_cast<int>(blockIdx.x) * kScanWarps;
  const MesaStrip first_strip = StripAt(begin, h.stored);
  const MesaStrip last_strip = StripAt(min(begin + kScanWarps, strips) - 1, h.stored);
  const MesaStrip strip = StripAt(min(begin + Warp(), strips - 1), h.stored);
  const int stored_tiles = begin + Warp() < strips ? strip.tiles : 0;
  // Columns of v, in channels.
  const int v_begin = first_strip.hkk ? 0 : first_strip.j * 16;
  const int v_columns = last_strip.hkk ? 0 : (last_strip.j + 1) * 16 - v_begin;

  // Unsigned: only then the compiler sees that copies in the loop take nothing from the tail.
  const unsigned thread = threadIdx.x, channel = thread * 4;

  const auto first_token = [&](int b) {
    return span.first_token - span.position % kBlockTokens + b * kBlockTokens;
  };
  const auto rows = [&](const float* tail, const float* fresh, int b, int stride) {
    return MesaRows(tail, fresh, head, tokens, first_token(b),
                    b == 0 ? span.position % kBlockTokens : 0, stride);
  };
  const auto copy = [&](int b) {
    if (b < blocks.finished) {
      const MesaRows k = rows(h.k, a.k, b, h.stored), v = rows(h.v, a.v, b, h.stored);
      ScanStage<P>& to = shared.stages[b % kScanStages];
      constexpr int kRows = kScanThreads * 4 / P, kRowsOfV = kScanThreads * 4 / kScanColumns;
      const int row = static_cast<int>(channel / P), at = static_cast<int>(channel % P);
#pragma unroll
      for (int s = row; s < kBlockTokens + row; s += kRows) {
        if (at < h.stored) CopyAsync16(to.k + s * P + at, k(s) + at);
      }
      const int v_row = static_cast<int>(channel / kScanColumns);
      const int v_at = static_cast<int>(channel % kScanColumns);
#pragma unroll
      for (int s = v_row; s < kBlockTokens + v_row; s += kRowsOfV) {
        if (v_at < v_columns) CopyAsync16(to.v + s * kScanColumns + v_at, v(s) + v_begin + v_at);
      }
    }
    CopyAsyncCommit();
  };
  for (int b = 0; b < kScanStages - 1; ++b) copy(b);

  bool sealed = span.position >= kBlockTokens;
  float sum[kStripTiles][8] = {};
  int offsets[kStripTiles];
#pragma unroll
  for (int t = 0; t < kStripTiles; ++t) {
    offsets[t] = StripRow(strip, t, h.stored);
    if (sealed && t < strip.tiles) {
      LoadColumns(SlotState<S>(a, span.slot_in, head) + offsets[t], sum[t]);
    }
  }
  const auto store = [&](S* state) {
#pragma unroll
    for (int t = 0; t < kStripTiles; ++t) {
      if (t < stored_tiles) StoreColumns(sum[t], state + offsets[t]);
    }
  };
  S* before = ScratchState<S>(a, StateIndex(first_token(1)), head);  // The state before block 1.
  for (int b = 0; b < blocks.finished; ++b) {
    const int in_group = b % kScanThreads;
    if (in_group == 0) {
      __syncthreads();
      if (const int of = b + static_cast<int>(thread); of < blocks.finished) {
        WeighBlock(rows(h.log_gamma, a.log_gamma, of, 1), rows(h.beta, a.beta, of, 1),
                   shared.coefficients + thread * kBlockTokens, shared.decay + thread);
      }
    }
    CopyAsyncWait<kScanStages - 2>();
    __syncthreads();
    copy(b + kScanStages - 1);
    if (b > 0) {
      store(before);
      before += MesaSlotFloats(a.shape.num_heads, h.dim);
    }
    const ScanStage<P>& stage = shared.stages[b % kScanStages];
    MesaSealing x{shared.decay[in_group],
                  shared.coefficients + in_group * kBlockTokens,
                  stage.k + strip.i * 16,
                  stage.k + strip.j * 16,
                  P,
                  P};
    if (!strip.hkk) x.right = stage.v + (strip.j * 16 - v_begin), x.right_stride = kScanColumns;
    UpdateStrip<S, 8>(strip, sealed, x, sum);
    // Rounded as if it were written and read back.
#pragma unroll
    for (int t = 0; t < kStripTiles; ++t) {
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[t][j] = ToFloat(FromFloat<S>(sum[t][j]));
    }
    sealed = true;
  }
  store(LastState<S>(a, span, blocks, head));
}

// Sixteen systems; H_kk gives its place to the read-out's partial sums.
template <int P, class S>
constexpr size_t SolveSharedBytes(int head_dim) {
  const size_t hkk = kTileInRegisters<P> ? MesaHkkFloats(head_dim) * sizeof(S) : 0;
  const size_t partial = size_t{4} * kBlockTokens * P * sizeof(float);
  return sizeof(MesaShared<P, kBlockTokens>) + (hkk > partial ? hkk : partial);
}

// A block of tokens of a span and one of its heads, by the block's first token in the batch.
template <class S>
struct MesaBlock {
  BatchSpan span;
  MesaHead h;
  int slot, n;  // Its tokens have the rows [slot, slot + n) of sixteen.
  bool sealed;
  const S* state;  // Before the block.
  SpanTotals* stats;
};
template <class S>
__device__ __forceinline__ MesaBlock<S> OpenBlock(const MesaArguments& a, int first, int head) {
  MesaBlock<S> b;
  const int index = a.batch.token_span[first];
  b.span = a.batch.spans[index];
  b.h = OpenHead(a, b.span, head);
  const int offset = first - b.span.first_token, position = b.span.position + offset;
  b.slot = position % kBlockTokens;
  b.n = min(kBlockTokens - b.slot, b.span.num_tokens - offset);
  b.sealed = position >= kBlockTokens;
  b.state = offset == 0           ? SlotState<S>(a, b.span.slot_in, head)
            : b.n == kBlockTokens ? ScratchState<S>(a, StateIndex(first), head)
                                  : LastState<S>(a, b.span, BlocksOf(b.span), head);
  b.stats = &a.stats[index];
  return b;
}

// Its outputs: sixteen systems side by side.
template <int P, class S>
__device__ __forceinline__ void SolveBlock(const MesaArguments& a, int first, int head) {
  constexpr int N = kBlockTokens;
  MesaShared<P, N>& shared = *reinterpret_cast<MesaShared<P, N>*>(SharedMemory());
  auto* rest = reinterpret_cast<std::byte*>(&shared + 1);
  const int channel = threadIdx.x, tokens = a.batch.num_tokens;
  {
    const MesaBlock<S> b = OpenBlock<S>(a, first, head);
    const MesaHead& h = b.h;
    const int slot = b.slot, n = b.n;
    const bool sealed = b.sealed, mine = channel < h.stored;
    const S* hkk = b.state;
    if constexpr (kTileInRegisters<P>) {
      auto* to = reinterpret_cast<S*>(rest);
      if (sealed) CopyHkk(hkk, h.stored / 16, to);
      hkk = to;
    }
    CopyAsyncCommit();
    const MesaRows k(h.k, a.k, head, tokens, first - slot, slot, h.stored);
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
    const MesaSolved solved = Solve<P, N>(
        tile, {sealed, lambda, b.span.solver.cg_tolerance, b.span.solver.cg_max_steps}, n,
        [&](int t) { return mine ? q[t * h.stored] : 0.0f; }, &shared);
    if (Warp() == 0) Record(solved, n, b.stats);
    __syncthreads();
    for (int t = 0; t < n; ++t) {
      float unused[1];
      Apply<P, N, 1, true>(tile, sealed, 0.0f, shared.x, {t}, &shared, unused);
    }
  }

  // Opened again, rather than kept in registers during the solve.
  const MesaBlock<S> b = OpenBlock<S>(a, first, head);
  const MesaHead& h = b.h;
  const int slot = b.slot, n = b.n;
  const bool mine = channel < h.stored;
  auto* partial = reinterpret_cast<float*>(rest);
  if (b.sealed) ReadSealed(shared, b.state + MesaHkkFloats(h.dim), h.stored, partial);
  __syncthreads();
  const MesaRows v(h.v, a.v, head, tokens, first - slot, slot, h.stored);
  float values[N];
#pragma unroll
  for (int s = 0; s < N; ++s) values[s] = mine && s < slot + n ? v(s)[channel] : 0.0f;
  for (int t = 0; t < n; ++t) {
    const float o = ReadOut(shared, partial, b.sealed, t, values);
    shared.y[t * P + channel] = o;
    StorePartials<P>(o * o, t, shared.partial_a);
  }
  __syncthreads();
  const float norm = channel < h.dim ? a.weights.o_norm[channel] : 0.0f;
  for (int t = 0; t < n; ++t) {
    Finish(a, h, first + t, shared.y[t * P + channel], SumPartials<P>(shared.partial_a, t), norm,
           LoadGate(a, h, first + t), b.stats);
  }
}

// Whether a block of a span begins at this row of the batch, and which: one that is solved early,
// as the scan is about to overwrite the state before it, or one that is not.
__device__ __forceinline__ bool BlockBegins(const MesaArguments& a, int row, bool early) {
  const int index = row < a.batch.num_tokens ? a.batch.token_span[row] : -1;
  if (index < 0) return false;
  const BatchSpan span = a.batch.spans[index];
  const int offset = row - span.first_token;
  if (span.num_tokens < 2 || (offset != 0 && (span.position + offset) % kBlockTokens != 0)) {
    return false;
  }
  const MesaBlocks blocks = BlocksOf(span);
  return early == (offset == 0 && blocks.in_place && !blocks.late);
}

// Blocks: (groups of sixteen rows of the batch, heads, what begins in a group: one after the
// other). In a long text's rows that is one block of tokens; where a text begins, one more.
template <int P, class S>
__global__ void __launch_bounds__(P, P == 128 ? 2 : 1)
    MesaSolveKernel(MesaArguments a, bool early) {
  AwaitPrevious();
  const int from = static_cast<int>(blockIdx.x) * kBlockTokens;
  unsigned begin =
      __ballot_sync(kAllLanes, Lane() < kBlockTokens && BlockBegins(a, from + Lane(), early));
  for (unsigned before = blockIdx.z; before > 0; --before) begin &= begin - 1u;
  if (begin == 0) return;
  SolveBlock<P, S>(a, from + __ffs(static_cast<int>(begin)) - 1, blockIdx.y);
}
// The most that begins in a group: of each span of several tokens its first block and one more.
inline int MostBegin(int prompts) { return std::min(kBlockTokens, 2 * prompts); }

// What is left to be kept of a span: the rows of its unfinished block, the inputs of the
// convolutions, and a state that had to wait. Blocks: (spans, heads).
template <class S>
__global__ void __launch_bounds__(kKeepThreads) MesaKeepKernel(MesaArguments a) {
  AwaitPrevious();
  const BatchSpan span = a.batch.spans[blockIdx.x];
  if (span.num_tokens < 2) return;
  const int head = blockIdx.y, tokens = a.batch.num_tokens;
  const MesaHead h = OpenHead(a, span, head);
  const int end = span.position + span.num_tokens, slots = end % kBlockTokens;
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
      KeepConvInputs(h, d, span.first_token + t, span.position + t);
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

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MESA_PROMPT_CUH_
