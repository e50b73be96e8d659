// The Mesa layer on a GPU. A token that comes alone takes one launch, a block of threads for each
// span and head: the sealed state is on its way into shared memory while the token is convolved,
// H_kk goes on into registers, and H_kv arrives while the system is being solved: in shared memory,
// or where two such blocks do not fit a multiprocessor, in the second cache. Spans of several
// tokens take the five launches of mesa_prompt.cuh. Both ways do the same arithmetic in the same
// order.
#include "kernels/mesa.h"

#include <algorithm>

#include "kernels/mesa_prompt.cuh"
#include "kernels/mesa_read.cuh"
#include "kernels/mesa_solve.cuh"
#include "kernels/mesa_state.cuh"

namespace packrat::gpu {
namespace {

// --- Decoding. ---

// The shared memory of a decoding block: what the solver needs, the read-out's partial sums, then
// H_kk as it is stored, if it goes on into registers, and H_kv, if it is staged there.
template <int P>
struct alignas(128) DecodeShared {
  MesaShared<P, 1> solver;
  float partial[4 * P];
  BulkCopy hkv;
};
template <int P, class S>
constexpr size_t DecodeSharedBytes(int head_dim, bool staged) {
  const size_t hkk = kTileInRegisters<P> ? MesaHkkFloats(head_dim) : 0;
  return sizeof(DecodeShared<P>) + (staged ? MesaHeadFloats(head_dim) : hkk) * sizeof(S);
}
// Whether to: blocks hide each other's loads, so two must fit a multiprocessor.
template <int P, class S>
bool StagesSealed(int head_dim) {
  return kTileInRegisters<P> && 2 * (DecodeSharedBytes<P, S>(head_dim, true) + kReservedShared) <=
                                    SharedOfMultiprocessor();
}

// The block's end: seals the state that lies in shared memory (or in the slot itself) with the
// sixteen tokens of the tail, of which v is read where it is kept.
template <int P, class S>
__device__ __forceinline__ void SealDecoded(const MesaHead& h, bool sealed, const S* hkk,
                                            const S* hkv, const MesaShared<P, 1>& shared, S* out) {
  const int row = Lane() / 2;
  for (int index = Warp(); index < MesaStrips(h.stored); index += P / kWarp) {
    const MesaStrip strip = StripAt(index, h.stored);
    const int i = strip.i, j = strip.j;
    float sum[kStripTiles][8] = {};
#pragma unroll
    for (int t = 0; t < kStripTiles; ++t) {
      if (!sealed || t >= strip.tiles) continue;
      if (strip.hkk) {
        constexpr bool kSwizzled = kTileInRegisters<P>;
        Load4(hkk + HkkOffset<S, kSwizzled>(i + t, j, row, StripColumn<S>(0)), sum[t]);
        Load4(hkk + HkkOffset<S, kSwizzled>(i + t, j, row, StripColumn<S>(4)), sum[t] + 4);
      } else {
        LoadColumns(hkv + static_cast<size_t>((i + t) * 16 + row) * h.stored + j * 16, sum[t]);
      }
    }
    MesaSealing x{shared.decay[0], shared.coefficients, shared.k + i * 16, nullptr, P, P};
    if (strip.hkk) {
      x.right = shared.k + j * 16;
    } else {
      x.right = h.v + j * 16, x.right_stride = h.stored;
    }
    UpdateStrip<S, P <= 128 ? 4 : 2>(strip, sealed, x, sum);
#pragma unroll
    for (int t = 0; t < kStripTiles; ++t) {
      if (t < strip.tiles) StoreColumns(sum[t], out + StripRow(strip, t, h.stored));
    }
  }
}

// Blocks: (heads, spans).
template <int P, class S, bool kStaged>
__global__ void __launch_bounds__(P, P == 128 ? 2 : 1) MesaDecodeKernel(MesaArguments a) {
  AwaitPrevious();
  const BatchSpan span = a.batch.spans[blockIdx.y];
  if (span.num_tokens != 1) return;
  auto* memory = reinterpret_cast<DecodeShared<P>*>(SharedMemory());
  MesaShared<P, 1>& shared = memory->solver;
  const MesaHead h = OpenHead(a, span, blockIdx.x);
  const int slot = span.position % kBlockTokens, blocks = h.stored / 16;
  const int channel = threadIdx.x;
  const bool sealed = span.position >= kBlockTokens, mine = channel < h.stored;

  // What takes longest to come is loaded first.
  const S* hkk = SlotState<S>(a, span.slot_in, h.index);
  const S* hkv = hkk + MesaHkkFloats(h.dim);
  for (int row = Warp(); row < slot; row += P / kWarp) {
    for (int at = Lane() * 4; at < h.stored; at += kWarp * 4) {
      CopyAsync16(shared.k + row * P + at, h.k + row * h.stored + at);
    }
  }
  if constexpr (kTileInRegisters<P>) {
    auto* to = reinterpret_cast<S*>(memory + 1);
    if (sealed) CopyHkk(hkk, blocks, to);
    hkk = to;
  }
  CopyAsyncCommit();
  if constexpr (kStaged) {
    S* to = reinterpret_cast<S*>(memory + 1) + MesaHkkFloats(h.dim);
    const int bytes = h.stored * h.stored * static_cast<int>(sizeof(S));
    if (sealed) memory->hkv.Start(to, hkv, bytes);
    hkv = to;
  } else {
    constexpr int kLine = 128 / static_cast<int>(sizeof(S));
    for (int at = threadIdx.x * kLine; sealed && at < h.stored * h.stored; at += P * kLine) {
      PrefetchL2(hkv + at);
    }
  }
  CopyAsyncCommit();
  float v[kBlockTokens];
#pragma unroll
  for (int s = 0; s < kBlockTokens; ++s) {
    v[s] = mine && s < slot ? h.v[s * h.stored + channel] : 0.0f;
  }
  const float gate = LoadGate(a, h, span.first_token);
  const float norm = channel < h.dim ? a.weights.o_norm[channel] : 0.0f;
  const float lambda = channel < h.dim ? a.weights.lambda[h.index * h.dim + channel] : 1.0f;
  float lane_log_gamma = 0.0f, lane_beta = 0.0f;
  if (Lane() < slot) lane_log_gamma = h.log_gamma[Lane()], lane_beta = h.beta[Lane()];

  const MesaToken token =
      PrepareToken<P>(a, h, span.first_token, span.position, span.position, shared.in);
  if (a.shape.conv_size > 1 && channel < h.dim) {
    KeepConvInputs(h, channel, span.first_token, span.position);
  }
  if (mine) {
    h.k[slot * h.stored + channel] = token.k;
    h.v[slot * h.stored + channel] = token.v;
  }
  if (channel == 0) h.beta[slot] = token.beta, h.log_gamma[slot] = token.log_gamma;
#pragma unroll
  for (int s = 0; s < kBlockTokens; ++s) {
    if (s == slot) v[s] = token.v;
    if (s == slot) shared.k[s * P + channel] = token.k;
    if (s > slot || (s < slot && !mine)) shared.k[s * P + channel] = 0.0f;
  }
  if (Warp() == 0) {
    if (Lane() == slot) lane_log_gamma = token.log_gamma, lane_beta = token.beta;
    const float sum = Cumulative(lane_log_gamma), now = __shfl_sync(kAllLanes, sum, slot);
    if (Lane() < kBlockTokens) {
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
      tile, {sealed, lambda, span.solver.cg_tolerance, span.solver.cg_max_steps}, 1,
      [&](int) { return token.q; }, &shared);
  SpanTotals* stats = &a.stats[blockIdx.y];
  if (Warp() == 0) Record(solved, 1, stats);
  if (kStaged && sealed) memory->hkv.Wait();
  __syncthreads();

  float unused[1];
  Apply<P, 1, 1, true>(tile, sealed, 0.0f, shared.x, {0}, &shared, unused);
  if (sealed) ReadSealed(shared, hkv, h.stored, memory->partial);
  __syncthreads();
  const float o = ReadOut<P, 1>(shared, memory->partial, sealed, 0, v);
  StorePartials<P>(o * o, 0, shared.partial_a);
  __syncthreads();
  const float squares = SumPartials<P>(shared.partial_a, 0);
  Finish(a, h, span.first_token, o, squares, norm, gate, stats);
  if (slot == kBlockTokens - 1) {
    SealDecoded(h, sealed, hkk, hkv, shared, SlotState<S>(a, span.slot_out, h.index));
  }
}

// --- Launching. ---

template <int P, class S>
absl::Status Launches(const MesaArguments& a, CudaStream stream) {
  const int heads = a.shape.num_heads, dim = a.shape.head_dim;
  const int spans = a.batch.num_spans, tokens = a.batch.num_tokens;
  // Both are written for two blocks of a multiprocessor with heads of up to 128 channels.
  constexpr size_t kMost =
      std::max(DecodeSharedBytes<P, S>(P, kTileInRegisters<P>), SolveSharedBytes<P, S>(P));
  static_assert(P > 128 || 2 * (kMost + kReservedShared) <= kSharedOfSm90);
  const size_t solve_bytes = SolveSharedBytes<P, S>(dim);
  const bool staged = StagesSealed<P, S>(dim);
  auto decoder = MesaDecodeKernel<P, S, false>;
  if constexpr (kTileInRegisters<P>) {
    if (staged) decoder = MesaDecodeKernel<P, S, true>;
  }
  absl::Status decode = Launch("MesaDecode", decoder, dim3(heads, spans), P,
                               DecodeSharedBytes<P, S>(dim, staged), stream, a);
  if (a.batch.max_span_tokens == 1 || !decode.ok()) return decode;
  absl::Status prepare = Launch("MesaPrepare", MesaPrepareKernel<P>, dim3(tokens, heads), P,
                                2 * P / kWarp * sizeof(float), stream, a);
  if (!prepare.ok()) return prepare;
  const dim3 parts((tokens + kBlockTokens - 1) / kBlockTokens, heads,
                   MostBegin(std::min(spans, std::max(a.batch.max_prompts, 1))));
  absl::Status early =
      Launch("MesaSolve", MesaSolveKernel<P, S>, parts, P, solve_bytes, stream, a, true);
  if (!early.ok()) return early;
  const int strips = MesaStrips(static_cast<int>(PadTo16(dim)));
  static_assert(sizeof(ScanShared<P>) <= SolveSharedBytes<P, S>(1));  // See LeastSharedBytes().
  absl::Status scan = Launch("MesaScan", MesaScanKernel<P, S>,
                             dim3((strips + kScanWarps - 1) / kScanWarps, heads, spans),
                             kScanThreads, sizeof(ScanShared<P>), stream, a);
  if (!scan.ok()) return scan;
  absl::Status solve =
      Launch("MesaSolve", MesaSolveKernel<P, S>, parts, P, solve_bytes, stream, a, false);
  if (!solve.ok()) return solve;
  return Launch("MesaKeep", MesaKeepKernel<S>, dim3(spans, heads), kKeepThreads, 0, stream, a);
}

template <int P, class S>
size_t LeastSharedBytes(int head_dim) {
  return std::max(DecodeSharedBytes<P, S>(head_dim, false), SolveSharedBytes<P, S>(head_dim));
}
template <int P>
size_t SharedBytes(int head_dim, DType state_type) {
  return state_type == DType::kF32 ? LeastSharedBytes<P, float>(head_dim)
                                   : LeastSharedBytes<P, BFloat16>(head_dim);
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
    states = (static_cast<size_t>(tokens) / kBlockTokens + 1) *
             MesaSlotFloats(shape.num_heads, shape.head_dim);
  }
};

}  // namespace

size_t MesaScratchBytes(const MesaShape& shape, int max_spans, int max_tokens) {
  const ScratchLayout layout(shape, max_tokens);
  return (3 * layout.rows + 2 * layout.scalars + layout.states) * sizeof(float);
}

size_t MesaSharedBytes(const MesaShape& shape, DType state_type) {
  const int dim = shape.head_dim;
  if (dim <= 64) return SharedBytes<64>(dim, state_type);
  if (dim <= 128) return SharedBytes<128>(dim, state_type);
  return SharedBytes<256>(dim, state_type);
}

absl::Status Mesa(const MesaShape& shape, const MesaWeights& weights, const BatchView& batch,
                  const StateParts& slots, const StateParts& tails, const MesaOperands& operands,
                  SpanTotals* stats, void* scratch, CudaStream stream) {
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
