// The parts of a split's work (attend.cuh) on tensor cores, for keys and values in bfloat16.
//
// - Queries and weights are sums of two bfloat16 (SplitPair()), so that products have the precision
//   of 16 bits and more, and sums are float32.
// - A warp takes sixteen neighbouring entries of the split, and eight queries at a time: fewer cost
//   as much. What an element is does not depend on which of the eight it is.
// - A score is the sum of four chains of products: of the even and the odd 32 channels, with the
//   halves of the query that are the nearest and the rest.
// - A value's channel is one chain over the warp's entries, with the nearest of the weights and
// then
//   the rest; warps are added as a tree.
// - Here entries that a query does not see have a weight of zero, by which they are multiplied.
// What
//   is not finite is cleared before and poisons the weights of those who see it: ClearNotFinite().
#ifndef PACKRAT_KERNELS_ATTEND_TENSOR_CUH_
#define PACKRAT_KERNELS_ATTEND_TENSOR_CUH_

#include "kernels/attend_query.cuh"
#include "kernels/attend_runs.cuh"
#include "kernels/attend_tile.cuh"

namespace packrat::gpu {

// --- A lane with g = lane / 4 and t = lane % 4 has of keys g and g + 8 of its warp's sixteen eight
// channels of each 32, those from 8 t on: as the rows of MultiplyEight(). Of values 4 t to 4 t + 3
// it has 2 kWords channels of each 16 kWords, those from 2 kWords g on: their pairs of channels
// become the columns of two rows of channels, see ValueRows(). ---

template <class L>
__device__ __forceinline__ void LoadTensorKeys(const AttendTile& tile, int parity, int padded,
                                               Packed8<BFloat16>* keys) {
  const std::byte* const* rows = tile.rows + parity * 2 * L::kSplit + Warp() * 16 + Lane() / 4;
  const auto* low = reinterpret_cast<const BFloat16*>(rows[0]);
  const auto* high = reinterpret_cast<const BFloat16*>(rows[8]);
#pragma unroll
  for (int c = 0; c < L::kKeySteps / 2; ++c) {
    const int channel = min(c * 32 + Lane() % 4 * 8, padded - 8);
    LoadPacked(low + channel, &keys[2 * c]);
    LoadPacked(high + channel, &keys[2 * c + 1]);
  }
}

template <class L>
__device__ __forceinline__ void LoadTensorValues(const AttendTile& tile, int parity, int padded,
                                                 Packed8<BFloat16>* values) {
  const std::byte* const* rows =
      tile.rows + (parity * 2 + 1) * L::kSplit + Warp() * 16 + Lane() % 4 * 4;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const auto* row = reinterpret_cast<const BFloat16*>(rows[j]);
#pragma unroll
    for (int part = 0; part < L::kValueParts; ++part) {
      const int channel = min((part * 8 + Lane() / 4) * 2 * L::kWords, padded - 2 * L::kWords);
      Packed8<BFloat16>* to = &values[part * 4 + j];
      if constexpr (L::kWords == 4) {
        LoadPacked(row + channel, to);
      } else {
        const uint2 words = ReadFound8(row + channel);
        to->words = make_uint4(words.x, words.y, 0, 0);
      }
    }
  }
}

__device__ __forceinline__ unsigned& Word(uint4& words, int i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

// A split that some query sees less of than others: clears what is not finite of this warp's
// values, and makes tile.poison of an entry that had such a NaN, of others zero.
template <class L>
__device__ __forceinline__ void ClearNotFinite(const AttendTile& tile, Packed8<BFloat16>* values) {
  const int t = Lane() % 4;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    bool found = false;
#pragma unroll
    for (int part = 0; part < L::kValueParts; ++part) {
#pragma unroll
      for (int i = 0; i < L::kWords; ++i) {
        unsigned& word = Word(values[part * 4 + j].words, i);
        if ((word & 0x7f800000u) != 0x7f800000u && (word & 0x7f80u) != 0x7f80u) continue;
        word = 0;
        found = true;
      }
    }
    const unsigned lanes = __ballot_sync(kAllLanes, found);
    if (Lane() / 4 != 0) continue;
    tile.poison[Warp() * 16 + t * 4 + j] =
        (lanes & 0x11111111u << t) != 0 ? __uint_as_float(0x7fc00000u) : 0.0f;
  }
}

// tile.weights = q . key for n queries and the entries of a split.
template <class L>
__device__ __forceinline__ void TensorScores(const AttendTile& tile, int n,
                                             const Packed8<BFloat16>* keys) {
  const int g = Lane() / 4, t = Lane() % 4;
  for (int first = 0; first < n; first += L::kAtOnce) {
    const int query = min(first + g, n - 1);
    float chains[4][4] = {};
#pragma unroll
    for (int c = 0; c < L::kKeySteps / 2; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 q =
            *reinterpret_cast<const uint4*>(QueryPiece<L>(tile, query, half, 4 * c + t));
        MultiplyEight(keys[2 * c].words, keys[2 * c + 1].words, q, chains[2 * half + c % 2]);
      }
    }
    float* to = tile.weights + (first + 2 * t) * L::kWeightStride + Warp() * 16 + g;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (first + 2 * t + i % 2 >= n) continue;
      to[i % 2 * L::kWeightStride + i / 2 * 8] =
          (chains[0][i] + chains[1][i]) + (chains[2][i] + chains[3][i]);
    }
  }
}

// Turns a split's scores into weights, kLanes for each query: kSplit bfloat16 that are the nearest,
// then what is nearest to the rest. A sum of weights is a tree over neighbours as far as eight,
// then over eights at distances 4, 2, 1, however many lanes share it. kRagged: see
// ClearNotFinite().
template <class L, int kLanes, bool kRagged>
__device__ __forceinline__ void TensorWeights(const AttendTile& tile, int n, int split, float scale,
                                              bool ragged, const AttendPartials& partials) {
  constexpr int kQueries = kWarp / kLanes;  // Of a warp at once.
  constexpr int kEach = L::kSplit / kLanes, kLanesOfEight = 8 / kEach;
  static_assert(kEach == 8 || kEach == 2);
  const int place = Lane() % kLanes;
  for (int first = Warp() * kQueries; first < n; first += kAttendWarps * kQueries) {
    const int i = first + Lane() / kLanes;
    AttendQuery* query = tile.queries + min(i, n - 1);
    float* row = tile.weights + min(i, n - 1) * L::kWeightStride;
    const int begin = max(query->first - split * L::kSplit, 0);
    const int end = min(query->end - split * L::kSplit, L::kSplit);
    float weights[kEach], tree[kEach], max = kNoScore;
    if constexpr (kEach == 8) {
      Load8(row + place * 8, weights);
    } else {
      const float2 pair = reinterpret_cast<const float2*>(row)[place];
      weights[0] = pair.x, weights[1] = pair.y;
    }
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int j = place * kEach + k;
      weights[k] *= scale;
      if (j >= begin && j < end) max = fmaxf(max, weights[k]);  // Drops NaNs; the sum will not.
    }
    max = WarpMax<kLanes>(max);
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int j = place * kEach + k;
      float weight = exp2f(weights[k] - max);
      if (kRagged && ragged) weight += tile.poison[j];
      tree[k] = weights[k] = j >= begin && j < end ? weight : 0.0f;
    }
#pragma unroll
    for (int step = 1; step < kEach; step *= 2) {
#pragma unroll
      for (int k = 0; k < kEach; k += 2 * step) tree[k] += tree[k + step];
    }
    float sum = tree[0];
#pragma unroll
    for (int distance = 1; distance < kLanesOfEight; distance *= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, distance);
    }
#pragma unroll
    for (int distance = kLanes / 2; distance >= kLanesOfEight && distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, distance);
    }
    uint4 high = {}, low = {};
#pragma unroll
    for (int k = 0; k < kEach / 2; ++k) {
      SplitPair(weights[2 * k], weights[2 * k + 1], &Word(high, k), &Word(low, k));
    }
    __syncwarp();  // The row's scores have been read.
    if (i >= n) continue;
    if constexpr (kEach == 8) {
      uint4* to = reinterpret_cast<uint4*>(row) + place;
      to[0] = high, to[L::kSplit / 8] = low;
    } else {
      unsigned* to = reinterpret_cast<unsigned*>(row) + place;
      to[0] = high.x, to[L::kSplit / 2] = low.x;
    }
    if (place != 0) continue;
    if (begin >= end) {
      query->steps = 0;
      continue;
    }
    JoinSplit<L>(query, split, max, sum, partials);
    if (partials.sums != nullptr && (query->steps & kEndsRun) != 0) {
      float* stat = partials.Stat(i, query->run);
      stat[0] = query->run_max;
      stat[1] = query->run_sum;
    }
  }
}

// Rows for MmaBf16() of a pair of channels: values of the four entries whose pairs are `words`.
__device__ __forceinline__ void ValueRows(const unsigned (&words)[4], unsigned (&rows)[4]) {
  constexpr unsigned kLower = 0x5410, kUpper = 0x7632;
  rows[0] = __byte_perm(words[0], words[1], kLower);
  rows[1] = __byte_perm(words[0], words[1], kUpper);
  rows[2] = __byte_perm(words[2], words[3], kLower);
  rows[3] = __byte_perm(words[2], words[3], kUpper);
}

// Adds a split's values, weighted, to the runs of n queries. What the warps have found is
// tile.partial (warps, partial_queries, kPartialStride).
template <class L>
__device__ __forceinline__ void TensorValues(const AttendTile& tile, int n,
                                             Packed8<BFloat16>* values,
                                             const AttendPartials& partials) {
  const int g = Lane() / 4, t = Lane() % 4;
  const int warp_stride = tile.partial_queries * L::kPartialStride;
  for (int first = 0; first < n; first += L::kAtOnce) {
    if (first > 0) __syncthreads();  // Others have read the partial sums before.
    const float* weights = tile.weights + min(first + g, n - 1) * L::kWeightStride;
    const auto* pairs = reinterpret_cast<const uint2*>(weights) + Warp() * 4 + t;
    const uint2 nearest = pairs[0], rest = pairs[L::kSplit / 4];
    const unsigned high[2] = {nearest.x, nearest.y}, low[2] = {rest.x, rest.y};
#pragma unroll
    for (int part = 0; part < L::kValueParts; ++part) {
      float sums[L::kWords][4] = {};
#pragma unroll
      for (int i = 0; i < L::kWords; ++i) {
        unsigned words[4], rows[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) words[j] = Word(values[part * 4 + j].words, i);
        ValueRows(words, rows);
        MmaBf16(rows, high, sums[i]);
        MmaBf16(rows, low, sums[i]);
      }
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const int query = 2 * t + side;
        if (first + query >= n) continue;
        float* to = tile.partial + Warp() * warp_stride + query * L::kPartialStride +
                    (part * 8 + g) * 2 * L::kWords;
#pragma unroll
        for (int i = 0; i < L::kWords; i += 2) {
          const float four[4] = {sums[i][side], sums[i][2 + side], sums[i + 1][side],
                                 sums[i + 1][2 + side]};
          StoreChannels(four, to + 2 * i);
        }
      }
    }
    __syncthreads();
#pragma unroll
    for (int begin = 0; begin < L::kAtOnce * L::kChannels; begin += kAttendThreads * 4) {
      const int at = begin + static_cast<int>(threadIdx.x) * 4;
      const int i = at / L::kChannels, d = at % L::kChannels;
      if (i >= min(n - first, L::kAtOnce)) break;
      float x[kAttendWarps][4], sums[4];
#pragma unroll
      for (int w = 0; w < kAttendWarps; ++w) {
        LoadChannels(tile.partial + w * warp_stride + i * L::kPartialStride + d, x[w]);
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[c] = (x[0][c] + x[1][c]) + (x[2][c] + x[3][c]);
      AddToRun<L>(tile, first + i, d, partials, sums);
    }
  }
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_ATTEND_TENSOR_CUH_
