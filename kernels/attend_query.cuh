// A block's queries in shared memory, for attention on the GPU (attend.cuh).
#ifndef PACKRAT_KERNELS_ATTEND_QUERY_CUH_
#define PACKRAT_KERNELS_ATTEND_QUERY_CUH_

#include "kernels/attend_tile.cuh"

namespace packrat::gpu {

__device__ __forceinline__ void Rotate(float x1, float x2, float cos, float sin, float* y1,
                                       float* y2) {
  *y1 = x1 * cos - x2 * sin;
  *y2 = x2 * cos + x1 * sin;
}
// Rotates channels (i, i + half) of a head by its token's cosines and sines.
__device__ __forceinline__ void RotatePair(float x1, float x2, const float* cos_sin, int i,
                                           int half, float* y1, float* y2) {
  Rotate(x1, x2, cos_sin[i], cos_sin[half + i], y1, y2);
}

// Where a query's eight channels are which PutQuery() has stored in bfloat16, piece by piece: the
// nearest (half 0) and what is nearest to the rest (1). Every other query changes places, so that
// the lanes which read a piece of several queries meet all banks.
template <class L>
__device__ __forceinline__ BFloat16* QueryPiece(const AttendTile& tile, int query, int half,
                                                int piece) {
  auto* row = reinterpret_cast<BFloat16*>(tile.q + query * L::kChannels);
  return row + ((half * (L::kChannels / 8) + piece) ^ (query & 1) * 4) * 8;
}
// Channel d of a query.
template <class L>
__device__ __forceinline__ void PutQuery(const AttendTile& tile, int query, int d, float x) {
  if constexpr (L::kTensor) {
    const BFloat16 nearest = FromFloat<BFloat16>(x);
    QueryPiece<L>(tile, query, 0, d / 8)[d % 8] = nearest;
    QueryPiece<L>(tile, query, 1, d / 8)[d % 8] = FromFloat<BFloat16>(x - ToFloat(nearest));
  } else {
    tile.q[query * L::kChannels + d] = x;
  }
}
// Its channels d to d + 7, of which the first is a multiple of eight, as scores take them.
template <class L>
__device__ __forceinline__ void LoadQuery(const AttendTile& tile, int query, int d, float* out) {
  if constexpr (L::kTensor) {
    float rest[8];
    Load8(QueryPiece<L>(tile, query, 0, d / 8), out);
    Load8(QueryPiece<L>(tile, query, 1, d / 8), rest);
#pragma unroll
    for (int c = 0; c < 8; ++c) out[c] += rest[c];
  } else {
    Load8(tile.q + query * L::kChannels + d, out);
  }
}

// n queries of `dim` channels, of which the first `rotary` are rotated: channel(i, d) of query i,
// angles(i): the cosines and sines of its token. A thread has the loads of kAhead pairs of channels
// under way at once.
template <class L, int kAhead, class Channel, class Angles>
__device__ __forceinline__ void FillQueries(const AttendTile& tile, int n, int dim, int rotary,
                                            const Channel& channel, const Angles& angles) {
  constexpr int kPairs = L::kChannels / 2;
  const int half = rotary / 2, all = n * kPairs;
  const auto first_of = [&](int pair) { return pair < half ? pair : 2 * pair; };
  const auto second_of = [&](int pair) { return pair < half ? half + pair : 2 * pair + 1; };
  for (int begin = threadIdx.x; begin < all; begin += kAhead * kAttendThreads) {
    float x1[kAhead], x2[kAhead], cos[kAhead] = {}, sin[kAhead] = {};
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int at = min(begin + k * kAttendThreads, all - 1), i = at / kPairs, pair = at % kPairs;
      x1[k] = channel(i, min(first_of(pair), dim - 1));
      x2[k] = channel(i, min(second_of(pair), dim - 1));
      if (half == 0) continue;  // There may be no angles.
      const float* cos_sin = angles(i) + min(pair, half - 1);
      cos[k] = cos_sin[0], sin[k] = cos_sin[half];
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int at = begin + k * kAttendThreads, i = at / kPairs, pair = at % kPairs;
      if (at >= all) break;
      if (pair < half) Rotate(x1[k], x2[k], cos[k], sin[k], &x1[k], &x2[k]);
      const bool inside = 2 * pair < dim;
      PutQuery<L>(tile, i, first_of(pair), inside ? x1[k] : 0.0f);
      PutQuery<L>(tile, i, second_of(pair), inside ? x2[k] : 0.0f);
    }
  }
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_ATTEND_QUERY_CUH_
