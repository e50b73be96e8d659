// What the kernels of mesa.cu share: where a head's state lies, how it is sealed, and what a token
// brings to it and takes from it. The sealed H_kk in shared memory is swizzled in groups of 16
// bytes, so that the solver's tiles are read without bank conflicts from both sides of the
// diagonal.
#ifndef PACKRAT_KERNELS_MESA_STATE_CUH_
#define PACKRAT_KERNELS_MESA_STATE_CUH_

#include "kernels/device.cuh"
#include "kernels/mesa.h"
#include "kernels/short_conv.cuh"

namespace packrat::gpu {

// The arguments of every kernel. Scratch, for prompts, holds what Prepare makes of each token.
struct MesaArguments {
  MesaShape shape;
  MesaWeights weights;
  BatchView batch;
  StateParts slots, tails;
  MesaOperands x;
  SpanTotals* stats;
  float *q, *k, *v;         // (H, tokens, stored)
  float *beta, *log_gamma;  // (H, tokens)
  std::byte* states;        // (tokens / 16 + 1) slots
};

// One head of one span. `stored`: its channels in slots and tails.
struct MesaHead {
  int index, dim, stored, width;
  float *k, *v, *beta, *log_gamma;  // Tail.
  ConvInput conv_q, conv_k;         // Of all heads.
};

__device__ __forceinline__ MesaHead OpenHead(const MesaArguments& a, const BatchSpan& span,
                                             int head) {
  const MesaShape& s = a.shape;
  const MesaTailLayout layout(s.num_heads, s.head_dim, s.conv_size);
  auto* tail = reinterpret_cast<float*>(a.tails.base + span.tail * a.tails.stride);
  MesaHead h;
  h.index = head;
  h.dim = s.head_dim;
  h.stored = PadTo16(s.head_dim);
  h.width = s.num_heads * s.head_dim;
  h.k = tail + layout.k + static_cast<size_t>(head) * 16 * h.stored;
  h.v = tail + layout.v + static_cast<size_t>(head) * 16 * h.stored;
  h.beta = tail + layout.beta + head * 16;
  h.log_gamma = tail + layout.log_gamma + head * 16;
  h.conv_q = {
      a.x.q,   a.x.stride, a.x.type, tail + layout.conv_q, a.weights.conv_q, a.weights.conv_q_bias,
      h.width, s.conv_size};
  h.conv_k = {
      a.x.k,   a.x.stride, a.x.type, tail + layout.conv_k, a.weights.conv_k, a.weights.conv_k_bias,
      h.width, s.conv_size};
  return h;
}

// A head's sealed state in a slot, and in the scratch of prompts.
template <class S>
__device__ __forceinline__ S* SlotState(const MesaArguments& a, int slot, int head) {
  return reinterpret_cast<S*>(a.slots.base + slot * a.slots.stride) +
         head * MesaHeadFloats(a.shape.head_dim);
}
template <class S>
__device__ __forceinline__ S* ScratchState(const MesaArguments& a, int index, int head) {
  return reinterpret_cast<S*>(a.states) +
         (static_cast<size_t>(index) * a.shape.num_heads + head) * MesaHeadFloats(a.shape.head_dim);
}

// --- H_kk. ---

// Where element (row, column) of block (i, j) lies, j <= i.
template <class S, bool kSwizzled>
__device__ __forceinline__ int HkkOffset(int i, int j, int row, int column) {
  const int block = (i * (i + 1) / 2 + j) * 256;
  if (!kSwizzled) return block + row * 16 + column;
  constexpr int kGroup = 16 / static_cast<int>(sizeof(S)), kGroups = 16 / kGroup;
  const int group = (column / kGroup) ^ (row >> 2 & (kGroups - 1));
  return block + (row ^ ((i + j) & 1)) * 16 + group * kGroup + column % kGroup;
}

// Rows row to row + 7 (row a multiple of 8) by columns column to column + 3 (of 4) of the symmetric
// matrix; zero beyond `blocks` blocks of 16. Diagonal blocks are stored whole: see UpdateTiles().
template <class S, bool kSwizzled>
__device__ __forceinline__ void LoadHkk(const S* hkk, int blocks, int row, int column,
                                        float (&out)[8][4]) {
  const int i = row / 16, j = column / 16, r0 = row % 16, c0 = column % 16;
  if (i >= blocks || j >= blocks) {
#pragma unroll
    for (int r = 0; r < 8; ++r) out[r][0] = out[r][1] = out[r][2] = out[r][3] = 0.0f;
  } else if (j <= i) {
#pragma unroll
    for (int r = 0; r < 8; ++r) Load4(hkk + HkkOffset<S, kSwizzled>(i, j, r0 + r, c0), out[r]);
  } else {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      float v[8];
      Load4(hkk + HkkOffset<S, kSwizzled>(j, i, c0 + c, r0), v);
      Load4(hkk + HkkOffset<S, kSwizzled>(j, i, c0 + c, r0 + 4), v + 4);
#pragma unroll
      for (int r = 0; r < 8; ++r) out[r][c] = v[r];
    }
  }
}

// Starts to copy H_kk into shared memory, swizzled.
template <class S>
__device__ __forceinline__ void CopyHkk(const S* from, int blocks, S* to) {
  constexpr int kGroup = 16 / static_cast<int>(sizeof(S)), kPerBlock = 256 / kGroup;
  const int n = blocks * (blocks + 1) / 2 * kPerBlock;
  int i = 0;
  for (int at = threadIdx.x; at < n; at += blockDim.x) {
    const int block = at / kPerBlock, in = at % kPerBlock * kGroup;
    while (block >= (i + 1) * (i + 2) / 2) ++i;
    const int j = block - i * (i + 1) / 2;
    CopyAsync16(to + HkkOffset<S, true>(i, j, in / 16, in % 16), from + at * kGroup);
  }
}

// --- Sealing. A warp has a strip: up to four tiles of 16 x 16, one below the other, whose elements
// stay in its registers. Of each tile a lane has row lane / 2 and eight columns. ---

constexpr int kStripTiles = 4;

// Tiles (i, j) to (i + tiles - 1, j) of H_kk or H_kv. Left rows are k, right rows k or v.
struct MesaStrip {
  bool hkk;
  int i, j, tiles;
  __device__ bool diagonal() const { return hkk && i == j; }
};
// Column j of H_kk has its diagonal tile and the one below in a strip, as a diagonal tile takes as
// long as three others. Strips of a head: those of H_kk, then those of H_kv, column by column.
constexpr int HkkStrips(int tiles_of_column) {
  return (tiles_of_column - 2 + kStripTiles - 1) / kStripTiles + 1;
}
constexpr int MesaStrips(int stored) {
  const int n = stored / 16;
  int strips = (n + kStripTiles - 1) / kStripTiles * n;
  for (int tiles = 1; tiles <= n; ++tiles) strips += HkkStrips(tiles);
  return strips;
}
__device__ __forceinline__ MesaStrip StripAt(int index, int stored) {
  const int n = stored / 16;
  for (int j = 0; j < n; ++j) {
    const int here = HkkStrips(n - j);
    if (index == 0) return {true, j, j, min(2, n - j)};
    if (index < here) {
      const int i = j + 2 + (index - 1) * kStripTiles;
      return {true, i, j, min(kStripTiles, n - i)};
    }
    index -= here;
  }
  const int per_column = (n + kStripTiles - 1) / kStripTiles;
  const int i = index % per_column * kStripTiles;
  return {false, i, index / per_column, min(kStripTiles, n - i)};
}

// Column e of a lane's eight: vectors of 16 bytes of S in turn with the neighbour's, so that a
// warp's stores fill whole sectors.
template <class S>
__device__ __forceinline__ int StripColumn(int e) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(S));
  return e / kVector * 2 * kVector + Lane() % 2 * kVector + e % kVector;
}
// A lane's columns of a tile's row in the state.
__device__ __forceinline__ void LoadColumns(const float* row, float (&out)[8]) {
  Load4(row + StripColumn<float>(0), out);
  Load4(row + StripColumn<float>(4), out + 4);
}
__device__ __forceinline__ void LoadColumns(const BFloat16* row, float (&out)[8]) {
  Load8(row + StripColumn<BFloat16>(0), out);
}
__device__ __forceinline__ void StoreColumns(const float (&v)[8], float* row) {
  *reinterpret_cast<float4*>(row + StripColumn<float>(0)) = make_float4(v[0], v[1], v[2], v[3]);
  *reinterpret_cast<float4*>(row + StripColumn<float>(4)) = make_float4(v[4], v[5], v[6], v[7]);
}
__device__ __forceinline__ void StoreColumns(const float (&v)[8], BFloat16* row) {
  Store8(v, row + StripColumn<BFloat16>(0));
}
// Where the lane's row of a strip's tile begins in a head's state.
__device__ __forceinline__ int StripRow(const MesaStrip& strip, int tile, int stored) {
  const int n = stored / 16, i = strip.i + tile, row = Lane() / 2;
  return strip.hkk ? (i * (i + 1) / 2 + strip.j) * 256 + row * 16
                   : n * (n + 1) / 2 * 256 + (i * 16 + row) * stored + strip.j * 16;
}

// What sealing needs of sixteen tokens. Rows begin at the strip's first channels.
struct MesaSealing {
  float decay;
  const float* coefficients;  // (16), in shared memory.
  const float *left, *right;
  int left_stride, right_stride;
};

// sum = decay * sum + sum_s c_s left_s right_s'. Elements above the diagonal of H_kk, which its
// diagonal tiles hold too, get the bits of those below. Tiles that the strip has not got are like
// its last one, as a branch would part the multiply-adds. The rows of kTogether tokens are read
// together.
template <class S, int kTogether, int kTiles, bool kDiagonal>
__device__ __forceinline__ void UpdateTiles(const MesaStrip& strip, bool sealed,
                                            const MesaSealing& x, float (&sum)[kStripTiles][8]) {
  const int row = Lane() / 2;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int j = 0; j < 8; ++j) sum[t][j] = sealed ? sum[t][j] * x.decay : 0.0f;
  }
#pragma unroll kTogether
  for (int s = 0; s < kBlockTokens; ++s) {
    const float c = x.coefficients[s];
    const float* right = x.right + s * x.right_stride;
    float r[8];
    Load4(right + StripColumn<S>(0), r);
    Load4(right + StripColumn<S>(4), r + 4);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const float l = x.left[s * x.left_stride + min(t, strip.tiles - 1) * 16 + row];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const bool above = kDiagonal && t == 0 && StripColumn<S>(j) > row;
        sum[t][j] = above ? fmaf(c * r[j], l, sum[t][j]) : fmaf(c * l, r[j], sum[t][j]);
      }
    }
  }
}
template <class S, int kTogether>
__device__ __forceinline__ void UpdateStrip(const MesaStrip& strip, bool sealed,
                                            const MesaSealing& x, float (&sum)[kStripTiles][8]) {
  if (strip.diagonal()) {
    UpdateTiles<S, kTogether, 2, true>(strip, sealed, x, sum);
  } else {
    UpdateTiles<S, kTogether, kStripTiles, false>(strip, sealed, x, sum);
  }
}

// Lane s gets the sum of log_gamma over rows 0 to s % 16, added in order; lane s < 16 brings row s.
__device__ __forceinline__ float Cumulative(float log_gamma PACKRAT_CALLER) {
  float sum = 0.0f, mine = 0.0f;
#pragma unroll
  for (int s = 0; s < kBlockTokens; ++s) {
    sum += __shfl_sync(kAllLanes, log_gamma, s);
    if (Lane() % 16 == s) mine = sum;
  }
  return mine;
}

// --- A token's q, k, v, beta and log_gamma. ---

// log(sigmoid(a)), without overflow.
__device__ __forceinline__ float LogSigmoid(float a) {
  return fminf(a, 0.0f) - log1pf(expf(-fabsf(a)));
}

struct MesaToken {
  float q, k, v;          // Of this thread's channel; zero in the padding.
  float beta, log_gamma;  // The same in all threads.
};

// By a block with a thread for each channel. scratch: 2 * warps floats of shared memory.
template <int P>
__device__ __forceinline__ MesaToken PrepareToken(const MesaArguments& a, const MesaHead& h,
                                                  int row, int position, int first,
                                                  float* scratch) {
  const int channel = h.index * h.dim + static_cast<int>(threadIdx.x);
  MesaToken t = {};
  const size_t scalar = static_cast<size_t>(row) * a.x.scalar_stride + h.index;
  const float beta = a.x.beta[scalar], gamma = a.x.gamma[scalar];
  const int ring = a.shape.conv_size > 1 ? position % (a.shape.conv_size - 1) : 0;
  if (static_cast<int>(threadIdx.x) < h.dim) {
    t.v = LoadValue(a.x.v, static_cast<size_t>(row) * a.x.stride + channel, a.x.type);
    t.q = ShortConv(h.conv_q, channel, row, position, first, ring);
    t.k = ShortConv(h.conv_k, channel, row, position, first, ring);
  }
  const float qq = WarpSum(t.q * t.q), kk = WarpSum(t.k * t.k);
  if (Lane() == 0) scratch[Warp()] = qq, scratch[P / kWarp + Warp()] = kk;
  __syncthreads();
  float q_sum = 0.0f, k_sum = 0.0f;
#pragma unroll
  for (int w = 0; w < P / kWarp; ++w) q_sum += scratch[w], k_sum += scratch[P / kWarp + w];
  t.q *= 1.0f / sqrtf(q_sum + 1e-6f);
  t.k *= 1.0f / sqrtf(k_sum + 1e-6f);
  t.beta = Sigmoid(beta);
  t.log_gamma = LogSigmoid(gamma);
  return t;
}

// Keeps the inputs of this channel's convolutions at `position` for later spans.
__device__ __forceinline__ void KeepConvInputs(const MesaHead& h, int d, int row, int position) {
  const int channel = h.index * h.dim + d;
  KeepConvInput(h.conv_q, channel, row, position);
  KeepConvInput(h.conv_k, channel, row, position);
}

// --- A token's output. ---

// Output norm and gate of one channel; `o` (this channel's) and `squares`, the sum over all.
__device__ __forceinline__ void Finish(const MesaArguments& a, const MesaHead& h, int row, float o,
                                       float squares, float norm, float gate, SpanTotals* stats) {
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

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MESA_STATE_CUH_
