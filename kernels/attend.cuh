// Softmax attention of one key head over entries (keys and values in rows of pages) on the GPU,
// shared by RAT, window and full attention, by decode steps and prompts.
//
// What fixes the bits, whatever the form, the batch and the cut:
// - Entries are taken in splits of kSplit at absolute indices. Group g of kLanes neighbouring lanes
//   takes entries g, g + kGroups, ... of a split, each lane a slice of eight channels: a score is a
//   chain over the slice's channels, then a butterfly over the slices; a value's channel is a chain
//   over the group's entries, then a tree over the groups.
// - A split's weights are relative to its own largest score. Splits are joined in order of index
//   into runs, and runs into the result: see Join(). A query of c splits makes runs of
//   ceil(c / kMaxRuns), so that scratch is bounded and runs can be made by different blocks.
// - The query's own entry, which may not be in a page yet, comes last, as a run of its own.
// - Entries that a query does not see are never multiplied, not even by zero: they may be NaN.
//
// Scores are kept times log2(e), so that weights are powers of two.
#ifndef PACKRAT_KERNELS_ATTEND_CUH_
#define PACKRAT_KERNELS_ATTEND_CUH_

#include "kernels/attend_tile.cuh"

namespace packrat::gpu {

// --- The parts of a split's work. ---

// This lane's slices of a split's keys (row(entry) gives a row); zero outside [first, end).
template <class T, class L, class Row>
__device__ __forceinline__ void LoadRows(const Row& row, int split, int first, int end, int padded,
                                         Packed8<T>* rows) {
  const int channel = Lane() % L::kLanes * 8;
#pragma unroll
  for (int step = 0; step < L::kSteps; ++step) {
    const int entry =
        split * L::kSplit + step * L::kGroups + static_cast<int>(threadIdx.x) / L::kLanes;
    rows[step] = Packed8<T>();
    if (entry >= first && entry < end && channel < padded) {
      rows[step] = *reinterpret_cast<const Packed8<T>*>(row(entry) + channel);
    }
  }
}

// Sums kValues values at once over lanes at distances kFrom, kFrom / 2, ..., kTo, as a butterfly
// would, but each exchange halves the values that a lane carries while there is more than one.
// Returns the index of the first value that this lane is left with.
template <int kValues, int kFrom, int kTo>
__device__ __forceinline__ int AddOverLanes(float* values) {
  int left = kValues, first = 0;
#pragma unroll
  for (int distance = kFrom; distance >= kTo; distance /= 2) {
    if (left > 1) {
      left /= 2;
      const bool upper = (Lane() & distance) != 0;
#pragma unroll
      for (int i = 0; i < left; ++i) {
        const float kept = upper ? values[left + i] : values[i];
        const float given = upper ? values[i] : values[left + i];
        values[i] = kept + __shfl_xor_sync(kAllLanes, given, distance);
      }
      first += upper ? left : 0;
    } else {
      values[0] += __shfl_xor_sync(kAllLanes, values[0], distance);
    }
  }
  return first;
}

// tile.weights = q . key for n queries and the entries of a split, kQ queries at a time.
template <class T, class L, int kQ>
__device__ __forceinline__ void Scores(const AttendTile& tile, int n, const Packed8<T>* keys) {
  constexpr int kSame = L::kLanes / L::kSteps;  // Lanes that end up with the same score.
  const int slice = Lane() % L::kLanes, group = static_cast<int>(threadIdx.x) / L::kLanes;
  for (int first = 0; first < n; first += kQ) {
    float q[kQ][8], scores[kQ][L::kSteps];
#pragma unroll
    for (int i = 0; i < kQ; ++i) {
      Load8(tile.q + min(first + i, n - 1) * L::kChannels + slice * 8, q[i]);
    }
#pragma unroll
    for (int step = 0; step < L::kSteps; ++step) {
      float key[8];
      Unpack(keys[step], key);
#pragma unroll
      for (int i = 0; i < kQ; ++i) scores[i][step] = DotSlice(q[i], key);
    }
#pragma unroll
    for (int i = 0; i < kQ; ++i) {
      const int step = AddOverLanes<L::kSteps, L::kLanes / 2, 1>(scores[i]);
      if (slice % kSame == 0 && first + i < n) {
        tile.weights[(first + i) * L::kSplit + step * L::kGroups + group] = scores[i][0];
      }
    }
  }
}

// For one query, by lane 0 of its warp: how the split joins its run, and the run the result.
template <class L>
__device__ __forceinline__ void JoinSplit(AttendQuery* query, int index, float max, float sum,
                                          const AttendPartials& partials) {
  const int split = query->first / L::kSplit + index;
  const Runs runs(query->first, query->end, L::kSplit);
  const int run = index / runs.length, left = index % runs.length;
  query->steps = kTakesPart;
  if (left == 0) {
    query->steps |= kOpensRun;
    query->run_max = max;
    query->run_sum = sum;
  } else {
    Join(max, sum, &query->run_max, &query->run_sum, &query->run_scale, &query->split_scale);
  }
  if (left < runs.length - 1 && split < runs.end_split - 1) return;
  query->steps |= kEndsRun;
  if (partials.sums != nullptr) return;
  if (run == 0 && !partials.continues) {
    query->steps |= kFirstRun;
    query->max = query->run_max;
    query->sum = query->run_sum;
  } else {
    Join(query->run_max, query->run_sum, &query->max, &query->sum, &query->scale,
         &query->ended_scale);
  }
}

// Turns a split's scores into weights, a warp for each query.
template <class L>
__device__ __forceinline__ void Weights(const AttendTile& tile, int n, int split, float scale,
                                        const AttendPartials& partials) {
  constexpr int kEach = L::kSplit / kWarp;
  for (int i = Warp(); i < n; i += kAttendWarps) {
    AttendQuery* query = tile.queries + i;
    const int begin = max(query->first - split * L::kSplit, 0);
    const int end = min(query->end - split * L::kSplit, L::kSplit);
    if (begin >= end) {
      if (Lane() == 0) query->steps = 0;
      continue;
    }
    float* weights = tile.weights + i * L::kSplit;
    float scores[kEach], max = kNoScore, sum = 0.0f;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int j = Lane() + k * kWarp;
      scores[k] = weights[j] * scale;
      if (j >= begin && j < end) max = fmaxf(max, scores[k]);  // Drops NaNs; the sum will not.
    }
    max = WarpMax(max);
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int j = Lane() + k * kWarp;
      const bool seen = j >= begin && j < end;
      const float weight = exp2f(scores[k] - max);
      weights[j] = seen ? weight : -1.0f;
      sum += seen ? weight : 0.0f;
    }
    sum = WarpSum(sum);
    if (Lane() != 0) continue;
    JoinSplit<L>(query, split - query->first / L::kSplit, max, sum, partials);
    if (partials.sums != nullptr && (query->steps & kEndsRun) != 0) {
      const Runs runs(query->first, query->end, L::kSplit);
      float* stat = partials.Stat(i, (split - runs.first_split) / runs.length);
      stat[0] = query->run_max;
      stat[1] = query->run_sum;
    }
  }
}

// Adds a split's values, weighted, to the runs of n queries, kQ queries at a time. *parity: which
// half of tile.partial comes next.
template <class T, class L, int kQ>
__device__ __forceinline__ void Values(const AttendTile& tile, int n, int split,
                                       const Packed8<T>* values, const AttendPartials& partials,
                                       int* parity) {
  constexpr int kKept = L::kChannels / kWarp;  // Channels that a lane has after its warp's tree.
  const int slice = Lane() % L::kLanes, group = static_cast<int>(threadIdx.x) / L::kLanes;
  for (int first = 0; first < n; first += kQ) {
    float sums[kQ][8] = {};
#pragma unroll
    for (int step = 0; step < L::kSteps; ++step) {
      float value[8];
      Unpack(values[step], value);
#pragma unroll
      for (int i = 0; i < kQ; ++i) {
        const float weight =
            tile.weights[min(first + i, n - 1) * L::kSplit + step * L::kGroups + group];
        if (weight < 0.0f) continue;
#pragma unroll
        for (int c = 0; c < 8; ++c) sums[i][c] = fmaf(weight, value[c], sums[i][c]);
      }
    }
    float* partial = tile.partial + *parity * kAttendWarps * kQ * L::kChannels;
    *parity ^= 1;
#pragma unroll
    for (int i = 0; i < kQ; ++i) {
      const int channel = slice * 8 + AddOverLanes<8, kWarp / 2, L::kLanes>(sums[i]);
      float* to = partial + (Warp() * kQ + i) * L::kChannels + channel;
#pragma unroll
      for (int c = 0; c < kKept; ++c) to[c] = sums[i][c];
    }
    __syncthreads();
    const int end = min(kQ, n - first) * L::kChannels;
    for (int at = threadIdx.x; at < end; at += kAttendThreads) {
      const int i = first + at / L::kChannels, d = at % L::kChannels;
      const AttendQuery& query = tile.queries[i];
      if (query.steps == 0) continue;
      const float* x = partial + at;
      constexpr int kWarpStride = kQ * L::kChannels;
      const float sum = (x[0] + x[kWarpStride]) + (x[2 * kWarpStride] + x[3 * kWarpStride]);
      float* run = tile.run + i * L::kChannels + d;
      const float joined = (query.steps & kOpensRun) != 0
                               ? sum
                               : Blend(*run, query.run_scale, sum, query.split_scale);
      *run = joined;
      if ((query.steps & kEndsRun) == 0) continue;
      if (partials.sums != nullptr) {
        const Runs runs(query.first, query.end, L::kSplit);
        partials.Sum(i, (split - runs.first_split) / runs.length)[d] = joined;
        continue;
      }
      float* result = tile.result + i * L::kChannels + d;
      *result = (query.steps & kFirstRun) != 0
                    ? joined
                    : Blend(*result, query.scale, joined, query.ended_scale);
    }
  }
}

// --- The whole. ---

// All splits of `walk` for n queries, none of which sees entries outside [first, end). key(entry)
// and value(entry) give rows of `padded` elements. prepare() fills tile.q and the queries' first
// and end; it runs once the first loads are under way. The results go to tile.result and the
// queries or, if `partials` is not empty, there.
template <class T, class L, int kQ, class Key, class Value, class Prepare>
__device__ __forceinline__ void AttendSplits(const AttendTile& tile, int n, const SplitWalk& walk,
                                             int first, int end, int padded, float scale,
                                             const Key& key, const Value& value,
                                             const AttendPartials& partials,
                                             const Prepare& prepare) {
  Packed8<T> keys[L::kSteps], values[L::kSteps];
  int split = walk.Begin(), parity = 0;
  if (split < walk.runs.end_split) {
    LoadRows<T, L>(key, split, first, end, padded, keys);
    LoadRows<T, L>(value, split, first, end, padded, values);
  }
  prepare();
  __syncthreads();
  while (split < walk.runs.end_split) {
    const int next = walk.Next(split);
    Scores<T, L, kQ>(tile, n, keys);
    if (next < walk.runs.end_split) LoadRows<T, L>(key, next, first, end, padded, keys);
    __syncthreads();
    Weights<L>(tile, n, split, scale, partials);
    __syncthreads();
    Values<T, L, kQ>(tile, n, split, values, partials, &parity);
    if (next < walk.runs.end_split) LoadRows<T, L>(value, next, first, end, padded, values);
    split = next;
  }
}
}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_ATTEND_CUH_
