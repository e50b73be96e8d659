// How attention on the GPU (attend.cuh) ends: the query's own entry, and the joining of what
// several blocks have found.
#ifndef PACKRAT_KERNELS_ATTEND_FINISH_CUH_
#define PACKRAT_KERNELS_ATTEND_FINISH_CUH_

#include "kernels/attend_query.cuh"
#include "kernels/attend_runs.cuh"
#include "kernels/attend_tile.cuh"

namespace packrat::gpu {

// Score of a query's own entry, by a whole warp, of whose key each lane has eight channels from
// OwnChannel() on.
template <class L>
__device__ __forceinline__ int OwnChannel() {
  return Lane() % L::kLanes * 8;
}
template <class L>
__device__ __forceinline__ float OwnScore(const AttendTile& tile, int query, float scale,
                                          const float (&key)[8] PACKRAT_CALLER) {
  float q[8];
  LoadQuery<L>(tile, query, OwnChannel<L>(), q);
  return WarpSum<L::kLanes>(DotSlice(q, key)) * scale;
}

// Joins the own entries and hands out the results of n queries: own_key(query, channel, out); for
// channels below `dim` own_value(query, channel), and beside it what store() needs, and
// store(query, channel, x, beside). kAhead queries of a warp and channels of a thread are loaded at
// once. A barrier lies between AttendSplits()'s last write of tile.queries and this.
template <class L, int kAhead, class OwnKey, class OwnValue, class Store>
__device__ __forceinline__ void FinishQueries(const AttendTile& tile, int n, int dim, float scale,
                                              const OwnKey& own_key, const OwnValue& own_value,
                                              const Store& store) {
  __syncthreads();  // The last split's steps have been read.
  for (int first = Warp(); first < n; first += kAhead * kAttendWarps) {
    float keys[kAhead][8], score = 0.0f;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      own_key(min(first + k * kAttendWarps, n - 1), OwnChannel<L>(), keys[k]);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {  // Lane k goes on with the k-th.
      const float of_k = OwnScore<L>(tile, min(first + k * kAttendWarps, n - 1), scale, keys[k]);
      if (Lane() == k) score = of_k;
    }
    const int i = first + Lane() * kAttendWarps;
    if (Lane() >= kAhead || i >= n) continue;
    AttendQuery* query = tile.queries + i;
    // exp2f(score - score): 1, or the NaN that a score may be, which a maximum would drop.
    const float weight = exp2f(score - score);
    if (query->first >= query->end) {
      query->sum = weight;
    } else {
      Join(score, weight, &query->max, &query->sum, &query->scale, &query->ended_scale);
    }
  }
  __syncthreads();
  const int all = n * L::kChannels;
  for (int begin = threadIdx.x; begin < all; begin += kAhead * kAttendThreads) {
    float2 own[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int at = min(begin + k * kAttendThreads, all - 1);
      own[k] = own_value(at / L::kChannels, min(at % L::kChannels, dim - 1));
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int at = begin + k * kAttendThreads, i = at / L::kChannels, d = at % L::kChannels;
      if (at >= all) break;
      if (d >= dim) continue;
      const AttendQuery& query = tile.queries[i];
      const float sum = query.first >= query.end
                            ? own[k].x
                            : Blend(tile.result[at], query.scale, own[k].x, query.ended_scale);
      store(i, d, sum / query.sum, own[k].y);
    }
  }
}

// The same from partials, where run `runs` is to be the own entry's: for the block that arrives
// last.
template <class L, class Store>
__device__ __forceinline__ void JoinPartials(const AttendTile& tile, int n, int dim, int runs,
                                             const AttendPartials& partials, const Store& store) {
  const int count = runs + 1;
  for (int at = threadIdx.x; at < n * count; at += kAttendThreads) {
    const int i = at / count, run = at % count;
    float* join = tile.joins + (i * count + run) * 4;
    const float* stat = partials.Stat(i, run);
    join[0] = __ldcg(stat);
    join[1] = __ldcg(stat + 1);
  }
  __syncthreads();
  for (int at = threadIdx.x; at < n * count; at += kAttendThreads) {
    const int i = at / count, run = at % count;
    float* joins = tile.joins + i * count * 4;
    float max = joins[0];
    for (int r = 1; r < run; ++r) max = fmaxf(max, joins[r * 4]);
    float unused = 0.0f;
    if (run > 0) {
      Join(joins[run * 4], 0.0f, &max, &unused, &joins[run * 4 + 2], &joins[run * 4 + 3]);
    }
  }
  __syncthreads();
  for (int at = threadIdx.x; at < n * L::kChannels; at += kAttendThreads) {
    const int i = at / L::kChannels, d = at % L::kChannels;
    if (d >= dim) continue;
    const float* joins = tile.joins + i * count * 4;
    float sum = __ldcg(partials.Sum(i, 0) + d), weights = joins[1];
#pragma unroll 8
    for (int run = 1; run < count; ++run) {
      const float4 join = *reinterpret_cast<const float4*>(joins + run * 4);
      sum = Blend(sum, join.z, __ldcg(partials.Sum(i, run) + d), join.w);
      weights = Blend(weights, join.z, join.y, join.w);
    }
    store(i, d, sum / weights);
  }
}

// Writes the own entry, tile.own, as the run `run` of n queries.
template <class L>
__device__ __forceinline__ void StoreOwnPartial(const AttendTile& tile, int n, int run, float scale,
                                                const AttendPartials& partials) {
  for (int i = Warp(); i < n; i += kAttendWarps) {
    float key[8];
    Load8(tile.own + OwnChannel<L>(), key);
    const float score = OwnScore<L>(tile, i, scale, key);
    if (Lane() == 0) {
      partials.Stat(i, run)[0] = score;
      partials.Stat(i, run)[1] = exp2f(score - score);  // As in FinishQueries().
    }
  }
  for (int at = threadIdx.x; at < n * L::kChannels; at += kAttendThreads) {
    partials.Sum(at / L::kChannels, run)[at % L::kChannels] =
        tile.own[L::kChannels + at % L::kChannels];
  }
}

// Counts the blocks that have written their partials; true for the last, which sees all of them
// and leaves the ticket zero.
__device__ __forceinline__ bool ArrivesLast(unsigned* ticket, int workers, int* flag) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const bool last = atomicAdd(ticket, 1u) == static_cast<unsigned>(workers) - 1;
    if (last) atomicExch(ticket, 0u);
    *flag = last;
    __threadfence();
  }
  __syncthreads();
  return *flag != 0;
}
}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_ATTEND_FINISH_CUH_
