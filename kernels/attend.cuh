// Softmax attention of one key head over entries (keys and values in rows of pages) on the GPU,
// shared by RAT, window and full attention, by decode steps and prompts.
//
// What fixes the bits, whatever the form, the batch and the cut:
// - Entries are taken in splits of kSplit at absolute indices. In bfloat16 and for up to 128
// channels
//   tensor cores multiply, in the order of attend_tensor.cuh. Else group g of kLanes neighbouring
//   lanes takes entries g, g + kGroups, ... of a split, each lane a slice of eight channels: a
//   score is a chain over the slice's channels, then a butterfly over the slices; a value's channel
//   is a chain over the group's entries, then a tree over the groups.
// - A split's weights are relative to its own largest score. Splits are joined in order of index
//   into runs, and runs into the result: see Join(). A query of c splits makes runs of
//   ceil(c / kMaxRuns), so that scratch is bounded and runs can be made by different blocks.
// - The query's own entry, which may not be in a page yet, comes last, as a run of its own.
// - Entries that a query does not see are not multiplied, not even by zero: they may be NaN.
// (Tensor
//   cores multiply what is finite of them.)
//
// Scores are kept times log2(e), so that weights are powers of two.
#ifndef PACKRAT_KERNELS_ATTEND_CUH_
#define PACKRAT_KERNELS_ATTEND_CUH_

#include "kernels/attend_runs.cuh"
#include "kernels/attend_tensor.cuh"
#include "kernels/attend_tile.cuh"

namespace packrat::gpu {

// --- The parts of a split's work. ---

// Where this thread's row of a split is: thread i finds that of key i, thread kSplit + i that of
// value i. row(entry, part): of a key (0) or a value (1). Entries outside [first, end) have the row
// of their nearest neighbour: what is read for them is not looked at.
template <class T, class L, class Row>
__device__ __forceinline__ const T* FindRow(const Row& row, int split, int first, int end) {
  const int place = static_cast<int>(threadIdx.x) % L::kSplit;
  const int entry = min(max(split * L::kSplit + place, first), end - 1);
  return row(entry, static_cast<int>(threadIdx.x) / L::kSplit % 2);
}

// Puts it among the rows of split number `parity`.
template <class L>
__device__ __forceinline__ void PutRow(const AttendTile& tile, int parity, const void* row) {
  if (static_cast<int>(threadIdx.x) >= 2 * L::kSplit) return;
  tile.rows[parity * 2 * L::kSplit + threadIdx.x] = static_cast<const std::byte*>(row);
}

// This lane's slices of a split's keys (part 0) or values (1). Without a condition, so that all
// loads are under way together: lanes beyond `padded` channels read some that are there, times
// zeros.
template <class T, class L>
__device__ __forceinline__ void LoadRows(const AttendTile& tile, int parity, int part, int padded,
                                         Packed8<T>* slices) {
  const int channel = min(Lane() % L::kLanes * 8, padded - 8);
  const std::byte* const* rows =
      tile.rows + (parity * 2 + part) * L::kSplit + static_cast<int>(threadIdx.x) / L::kLanes;
#pragma unroll
  for (int step = 0; step < L::kSteps; ++step) {
    LoadPacked(reinterpret_cast<const T*>(rows[step * L::kGroups]) + channel, &slices[step]);
  }
}

template <class T, class L>
__device__ __forceinline__ void LoadKeys(const AttendTile& tile, int parity, int padded,
                                         Packed8<T>* keys) {
  if constexpr (L::kTensor) {
    LoadTensorKeys<L>(tile, parity, padded, keys);
  } else {
    LoadRows<T, L>(tile, parity, 0, padded, keys);
  }
}
template <class T, class L>
__device__ __forceinline__ void LoadValues(const AttendTile& tile, int parity, int padded,
                                           Packed8<T>* values) {
  if constexpr (L::kTensor) {
    LoadTensorValues<L>(tile, parity, padded, values);
  } else {
    LoadRows<T, L>(tile, parity, 1, padded, values);
  }
}

// Sums kValues values at once over lanes at distances kFrom, kFrom / 2, ..., kTo, as a butterfly
// would, but each exchange halves the values that a lane carries while there is more than one.
// Returns the index of the first value that this lane is left with.
template <int kValues, int kFrom, int kTo>
__device__ __forceinline__ int AddOverLanes(float* values PACKRAT_CALLER) {
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
    float scores[kQ][L::kSteps];
    // Four channels at a time: fewer registers.
#pragma unroll
    for (int c = 0; c < 8; c += 4) {
      float q[kQ][4];
#pragma unroll
      for (int i = 0; i < kQ; ++i) {
        Load4(tile.q + min(first + i, n - 1) * L::kChannels + slice * 8 + c, q[i]);
      }
#pragma unroll
      for (int step = 0; step < L::kSteps; ++step) {
        float key[4];
        Unpack4(keys[step], c, key);
#pragma unroll
        for (int i = 0; i < kQ; ++i) {
          float score = c == 0 ? q[i][0] * key[0] : fmaf(q[i][0], key[0], scores[i][step]);
#pragma unroll
          for (int j = 1; j < 4; ++j) score = fmaf(q[i][j], key[j], score);
          scores[i][step] = score;
        }
      }
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
    JoinSplit<L>(query, split, max, sum, partials);
    if (partials.sums != nullptr && (query->steps & kEndsRun) != 0) {
      float* stat = partials.Stat(i, query->run);
      stat[0] = query->run_max;
      stat[1] = query->run_sum;
    }
  }
}

// Adds a split's values, weighted, to the runs of n queries, kQ queries at a time. *parity: which
// half of tile.partial comes next.
template <class T, class L, int kQ>
__device__ __forceinline__ void Values(const AttendTile& tile, int n, const Packed8<T>* values,
                                       const AttendPartials& partials, int* parity) {
  constexpr int kKept = L::kChannels / kWarp;  // Channels that a lane has after its warp's tree.
  const int slice = Lane() % L::kLanes, group = static_cast<int>(threadIdx.x) / L::kLanes;
  for (int first = 0; first < n; first += kQ) {
    float sums[kQ][8] = {};
#pragma unroll
    for (int step = 0; step < L::kSteps; ++step) {
      float value[8];
      Unpack4(values[step], 0, value);
      Unpack4(values[step], 4, value + 4);
#pragma unroll
      for (int i = 0; i < kQ; ++i) {
        const float weight =
            tile.weights[min(first + i, n - 1) * L::kSplit + step * L::kGroups + group];
        const bool seen = weight >= 0.0f;
#pragma unroll
        for (int c = 0; c < 8; ++c) sums[i][c] = FmaIf(seen, weight, value[c], sums[i][c]);
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
#pragma unroll
    for (int begin = 0; begin < kQ * L::kChannels; begin += kAttendThreads) {
      const int at = begin + static_cast<int>(threadIdx.x);
      const int i = first + at / L::kChannels, d = at % L::kChannels;
      if (i >= min(first + kQ, n)) break;
      const float* x = partial + at;
      constexpr int kWarpStride = kQ * L::kChannels;
      float sum[1] = {(x[0] + x[kWarpStride]) + (x[2 * kWarpStride] + x[3 * kWarpStride])};
      AddToRun<L>(tile, i, d, partials, sum);
    }
  }
}

// --- The whole. ---

// All splits of `walk` for n queries, which is 1 if kQ is, and is of one token unless kMany; kQ at
// a time (kScored of them while scores are computed, which takes more registers), or as tensor
// cores take them; none sees entries outside [first, end), and those of an earlier query begin and
// end no later than a later one's. row(entry, part) gives a key's (0) or value's (1) row of
// `padded` elements, which nobody writes meanwhile. prepare() fills tile.q and lets the queries
// Begin(); it runs once the first loads are under way. The results go to tile.result and the
// queries or, if `partials` is not empty, there.
//
// A split's rows are found two splits ahead, while others are added up, and once for all lanes:
// what is left for each load is to read an address.
template <class T, class L, int kQ, bool kMany, int kScored = kQ, class Row, class Prepare>
__device__ __forceinline__ void AttendSplits(const AttendTile& tile, int n, SplitWalk walk,
                                             int first, int end, int padded, float scale,
                                             const Row& row, const AttendPartials& partials,
                                             const Prepare& prepare) {
  Packed8<T> keys[L::kKeySteps], values[L::kValueSteps];
  int split = walk.Next(), next = walk.Next(), parity = 0, partial = 0;
  if (split < walk.end) PutRow<L>(tile, 0, FindRow<T, L>(row, split, first, end));
  __syncthreads();
  if (split < walk.end) {
    LoadKeys<T, L>(tile, 0, padded, keys);
    LoadValues<T, L>(tile, 0, padded, values);
  }
  if (next < walk.end) PutRow<L>(tile, 1, FindRow<T, L>(row, next, first, end));
  prepare();
  __syncthreads();
  bool ragged = false;
  const int all_first = tile.queries[n - 1].first, all_end = tile.queries[0].end;  // What all see.
  while (split < walk.end) {
    const int after = walk.Next();
    const T* found = nullptr;
    if (after < walk.end) found = FindRow<T, L>(row, after, first, end);
    if constexpr (L::kTensor) {
      TensorScores<L>(tile, n, keys);
      if constexpr (kMany) {  // Does some query see less of the split than others?
        ragged = all_first > max(split * L::kSplit, first) ||
                 all_end < min((split + 1) * L::kSplit, end);
        if (ragged) ClearNotFinite<L>(tile, values);
      }
    } else {
      Scores<T, L, kScored>(tile, n, keys);
    }
    if (next < walk.end) LoadKeys<T, L>(tile, parity ^ 1, padded, keys);
    __syncthreads();
    if constexpr (L::kTensor) {
      TensorWeights<L, (kQ == 1 ? kWarp : 8), kMany>(tile, n, split, scale, ragged, partials);
    } else {
      Weights<L>(tile, n, split, scale, partials);
    }
    __syncthreads();
    if (after < walk.end) PutRow<L>(tile, parity, found);
    if constexpr (L::kTensor) {
      TensorValues<L>(tile, n, values, partials);
    } else {
      Values<T, L, kQ>(tile, n, values, partials, &partial);
    }
    if (next < walk.end) LoadValues<T, L>(tile, parity ^ 1, padded, values);
    split = next, next = after, parity ^= 1;
  }
}
}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_ATTEND_CUH_
