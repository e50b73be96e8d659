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

#include <algorithm>

#include "kernels/device.cuh"
#include "kernels/paged.h"

namespace packrat::gpu {

inline constexpr int kAttendThreads = 128, kAttendWarps = kAttendThreads / kWarp;
inline constexpr int kMaxRuns = 64;         // Of a query, its own entry apart.
inline constexpr int kTileQueries = 16;     // Of a block, at most.
inline constexpr int kFillingBlocks = 528;  // Four for each multiprocessor of an H100: with fewer
                                            // sequences and heads, several blocks share one.

// How a block is laid over the entries. All of a split's rows are in flight at once: kSteps loads
// of 16 bytes (bfloat16) for keys and as many for values in each lane.
template <int kLanes_>
struct AttendLayout {
  static constexpr int kLanes = kLanes_;        // Of an entry; a power of two.
  static constexpr int kChannels = 8 * kLanes;  // Head dimension, padded to the lanes.
  static constexpr int kGroups = kAttendThreads / kLanes;
  static constexpr int kSteps = kLanes == 32 ? 8 : 64 / kGroups;
  static constexpr int kSplit = kGroups * kSteps;  // 64; 32 for more than 128 channels.
};
constexpr int AttendLanes(int padded) {
  return padded <= 32 ? 4 : padded <= 64 ? 8 : padded <= 128 ? 16 : 32;
}
constexpr int AttendSplit(int padded) { return AttendLanes(padded) == 32 ? 32 : 64; }

// call(T(), AttendLayout<lanes>()) for the type of the activations and a padded head dimension.
template <class T, class Call>
absl::Status WithAttendLanes(int padded, const Call& call) {
  switch (AttendLanes(padded)) {
    case 4:
      return call(T(), AttendLayout<4>());
    case 8:
      return call(T(), AttendLayout<8>());
    case 16:
      return call(T(), AttendLayout<16>());
    default:
      return call(T(), AttendLayout<32>());
  }
}
template <class Call>
absl::Status WithAttendLayout(DType type, int padded, const Call& call) {
  return type == DType::kF32 ? WithAttendLanes<float>(padded, call)
                             : WithAttendLanes<BFloat16>(padded, call);
}

// Eight channels as they are stored.
template <class T>
struct Packed8;
template <>
struct Packed8<BFloat16> {
  uint4 words;
};
template <>
struct Packed8<float> {
  float4 low, high;
};
__device__ __forceinline__ void Unpack(const Packed8<BFloat16>& p, float* out) {
  const unsigned words[4] = {p.words.x, p.words.y, p.words.z, p.words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = __uint_as_float(words[i] << 16);
    out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}
__device__ __forceinline__ void Unpack(const Packed8<float>& p, float* out) {
  out[0] = p.low.x, out[1] = p.low.y, out[2] = p.low.z, out[3] = p.low.w;
  out[4] = p.high.x, out[5] = p.high.y, out[6] = p.high.z, out[7] = p.high.w;
}

// The splits and runs of a query that sees entries [first, end).
struct Runs {
  int first_split, end_split;
  int length;  // Splits of a run; the last may have fewer.
  int count;
  __host__ __device__ __forceinline__ Runs(int first, int end, int split)
      : first_split(first / split),
        end_split(end > first ? (end - 1) / split + 1 : first_split),
        length((end_split - first_split + kMaxRuns - 1) / kMaxRuns),
        count(length == 0 ? 0 : (end_split - first_split + length - 1) / length) {}
};

// Joins (max_b, sum_b) to (max_a, sum_a): sums of what a and b weigh are a * *scale_a + b *
// *scale_b, by Blend(). Below all scores there is kNoScore, finite, so that its difference to
// itself is no NaN.
inline constexpr float kNoScore = -3e38f;
__device__ __forceinline__ void Join(float max_b, float sum_b, float* max_a, float* sum_a,
                                     float* scale_a, float* scale_b) {
  const float max = fmaxf(*max_a, max_b);
  *scale_a = exp2f(*max_a - max);
  *scale_b = exp2f(max_b - max);
  *sum_a = fmaf(*sum_a, *scale_a, sum_b * *scale_b);
  *max_a = max;
}
__device__ __forceinline__ float Blend(float a, float scale_a, float b, float scale_b) {
  return fmaf(a, scale_a, b * scale_b);
}

// What a block knows of one of its queries.
struct AttendQuery {
  int first, end;          // The entries in pages that it sees; maybe none.
  float run_max, run_sum;  // Of the run under way.
  float max, sum;          // Of all finished runs.
  // How the split in work joins its run, and the run, if it ends here, the result.
  float run_scale, split_scale, scale, ended_scale;
  int steps;  // Of the kinds below.
};
enum AttendStep { kTakesPart = 1, kOpensRun = 2, kEndsRun = 4, kFirstRun = 8 };

// A block's shared memory.
struct AttendTile {
  AttendQuery* queries;
  float* q;        // (queries, kChannels), rotated; zero beyond the head dimension
  float* weights;  // (queries, kSplit): scores, then weights; -1: not seen
  float* partial;  // (2, warps, kQ, kChannels)
  float* run;      // (queries, kChannels): the run under way
  float* result;   // (queries, kChannels): the finished runs
  float* own;      // (2, kChannels): the own entry's key, rotated, and value; decode only
  float* joins;    // (queries, kMaxRuns + 1, 4): decode only
  int* flag;

  size_t bytes;  // Of all.

  // For n queries of which AttendSplits() takes at_once (kQ) at once.
  template <class Layout>
  __host__ __device__ static size_t Bytes(int n, int at_once, bool decode) {
    return AttendTile(Layout(), nullptr, n, at_once, decode).bytes;
  }
  template <class Layout>
  __host__ __device__ __forceinline__ AttendTile(Layout, std::byte* at, int n, int at_once,
                                                 bool decode) {
    const auto begin = reinterpret_cast<uintptr_t>(at);
    auto next = begin;
    const auto take = [&next](size_t floats) {
      auto* taken = reinterpret_cast<float*>(next);
      next += (floats * sizeof(float) + 15) / 16 * 16;
      return taken;
    };
    q = take(n * Layout::kChannels);
    weights = take(n * Layout::kSplit);
    partial = take(2 * kAttendWarps * at_once * Layout::kChannels);
    run = take(n * Layout::kChannels);
    result = take(n * Layout::kChannels);
    own = take(decode ? 2 * Layout::kChannels : 0);
    joins = take(decode ? 4 * n * (kMaxRuns + 1) : 0);
    queries = reinterpret_cast<AttendQuery*>(take(n * sizeof(AttendQuery) / sizeof(float)));
    flag = reinterpret_cast<int*>(take(1));
    bytes = next - begin;
  }
};

// Finished runs of a block's queries in device memory, where several blocks share the queries.
struct AttendPartials {
  float* sums = nullptr;   // (queries, kMaxRuns + 1, channels)
  float* stats = nullptr;  // (queries, kMaxRuns + 1, 2): largest score, sum of weights
  int channels = 0;

  __device__ __forceinline__ float* Sum(int query, int run) const {
    return sums + static_cast<size_t>(query * (kMaxRuns + 1) + run) * channels;
  }
  __device__ __forceinline__ float* Stat(int query, int run) const {
    return stats + static_cast<size_t>(query * (kMaxRuns + 1) + run) * 2;
  }
};

// Which splits a block takes: runs `worker`, `worker` + `workers`, ...
struct SplitWalk {
  Runs runs;
  int worker, workers;
  __device__ __forceinline__ int Begin() const { return runs.first_split + worker * runs.length; }
  __device__ __forceinline__ int Next(int split) const {
    const bool run_ends = (split - runs.first_split + 1) % runs.length == 0;
    return split + 1 + (run_ends ? (workers - 1) * runs.length : 0);
  }
};

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

__device__ __forceinline__ float DotSlice(const float* a, const float* b) {
  float sum = a[0] * b[0];
#pragma unroll
  for (int c = 1; c < 8; ++c) sum = fmaf(a[c], b[c], sum);
  return sum;
}

// Adds kValues values at once over lanes at `kFrom`, kFrom / 2, ... `kTo` from each other: as a
// butterfly would, but halving the values that a lane carries while there are some to halve.
// Returns the index of the first value that is left here.
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

// Of one query, by lane 0 of its warp: how the split joins its run and that the result.
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
  if (run == 0) {
    query->steps |= kFirstRun;
    query->max = query->run_max;
    query->sum = query->run_sum;
  } else {
    Join(query->run_max, query->run_sum, &query->max, &query->sum, &query->scale,
         &query->ended_scale);
  }
}

// Makes weights of a split's scores, a warp for each query.
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

// All splits of `walk` for n queries, of which none sees entries outside [first, end). key(entry)
// and value(entry) give rows of `padded` elements. prepare() fills tile.q and the queries' first
// and end; it runs once the first loads are under way. Results are in tile.result and the queries
// or, unless `partials` is empty, there.
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

// Score of a query's own entry, by a whole warp. key(channel, out): eight channels.
template <class L, class Key>
__device__ __forceinline__ float OwnScore(const float* q, float scale, const Key& key) {
  const int channel = Lane() % L::kLanes * 8;
  float a[8], b[8];
  Load8(q + channel, a);
  key(channel, b);
  return WarpSum<L::kLanes>(DotSlice(a, b)) * scale;
}

// Joins the own entries and hands out the results of n queries: own_key(query, channel, out),
// own_value(query, channel); store(query, channel, x) for channels below `dim`. A barrier lies
// between AttendSplits()'s last write of tile.queries and this.
template <class L, class OwnKey, class OwnValue, class Store>
__device__ __forceinline__ void FinishQueries(const AttendTile& tile, int n, int dim, float scale,
                                              const OwnKey& own_key, const OwnValue& own_value,
                                              const Store& store) {
  __syncthreads();  // The last split's steps have been read.
  for (int i = Warp(); i < n; i += kAttendWarps) {
    const float score = OwnScore<L>(tile.q + i * L::kChannels, scale,
                                    [&](int channel, float* out) { own_key(i, channel, out); });
    AttendQuery* query = tile.queries + i;
    if (Lane() != 0) continue;
    // exp2f(score - score): 1, or the NaN that a score may be, which a maximum would drop.
    const float weight = exp2f(score - score);
    if (query->first >= query->end) {
      query->sum = weight;
    } else {
      Join(score, weight, &query->max, &query->sum, &query->scale, &query->ended_scale);
    }
  }
  __syncthreads();
  for (int at = threadIdx.x; at < n * L::kChannels; at += kAttendThreads) {
    const int i = at / L::kChannels, d = at % L::kChannels;
    if (d >= dim) continue;
    const AttendQuery& query = tile.queries[i];
    const float value = own_value(i, d);
    const float sum = query.first >= query.end
                          ? value
                          : Blend(tile.result[at], query.scale, value, query.ended_scale);
    store(i, d, sum / query.sum);
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
    float* join = tile.joins + (i * (kMaxRuns + 1) + run) * 4;
    const float* stat = partials.Stat(i, run);
    join[0] = __ldcg(stat);
    join[1] = __ldcg(stat + 1);
  }
  __syncthreads();
  for (int at = threadIdx.x; at < n * count; at += kAttendThreads) {
    const int i = at / count, run = at % count;
    float* joins = tile.joins + i * (kMaxRuns + 1) * 4;
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
    const float* joins = tile.joins + i * (kMaxRuns + 1) * 4;
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
    const float score = OwnScore<L>(tile.q + i * L::kChannels, scale, [&](int channel, float* out) {
      Load8(tile.own + channel, out);
    });
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

// Rotates channels (i, i + half) of a head by its token's cosines and sines.
__device__ __forceinline__ void RotatePair(float x1, float x2, const float* cos_sin, int i,
                                           int half, float* y1, float* y2) {
  const float c = cos_sin[i], s = cos_sin[half + i];
  *y1 = x1 * c - x2 * s;
  *y2 = x2 * c + x1 * s;
}

// The scratch of a decode step whose blocks share their entries: tickets, then partials, both for
// (span, block) pairs of `queries` queries each. Tickets keep their places whatever the batch.
struct AttendScratch {
  unsigned* tickets = nullptr;
  float* stats = nullptr;
  float* sums = nullptr;
  int queries = 0, channels = 0;

  // Places it at `at` for that many spans and blocks of each; returns what comes after it.
  std::byte* Carve(std::byte* at, int spans, int blocks, int queries_each, int padded) {
    queries = queries_each;
    channels = AttendLanes(padded) * 8;
    const size_t pairs = std::min<size_t>(static_cast<size_t>(spans) * blocks, kFillingBlocks);
    const size_t runs = pairs * queries * (kMaxRuns + 1);
    const auto take = [&at](size_t bytes) {
      std::byte* taken = at;
      at += (bytes + 255) / 256 * 256;
      return taken;
    };
    tickets = reinterpret_cast<unsigned*>(take(kFillingBlocks * sizeof(unsigned)));
    stats = reinterpret_cast<float*>(take(runs * 2 * sizeof(float)));
    sums = reinterpret_cast<float*>(take(runs * channels * sizeof(float)));
    return at;
  }
  __device__ __forceinline__ AttendPartials Partials(int pair) const {
    const size_t runs = static_cast<size_t>(pair) * queries * (kMaxRuns + 1);
    return {sums + runs * channels, stats + runs * 2, channels};
  }
};

// Blocks that share the entries of one (span, block) pair in a decode step: enough to fill the
// device, not more than there can be runs.
inline int AttendWorkers(int pairs, int max_entries, int padded) {
  const int wanted = (kFillingBlocks + pairs - 1) / pairs;
  const int splits = (max_entries + AttendSplit(padded) - 1) / AttendSplit(padded);
  return std::max(1, std::min({wanted, kMaxRuns, splits + 1}));
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_ATTEND_CUH_
