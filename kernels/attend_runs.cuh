// How attention on the GPU (attend.cuh) joins what splits and runs have found.
#ifndef PACKRAT_KERNELS_ATTEND_RUNS_CUH_
#define PACKRAT_KERNELS_ATTEND_RUNS_CUH_

#include "kernels/attend_tile.cuh"

namespace packrat::gpu {

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

// Neighbouring channels of shared or device memory, of which nobody else writes: one, or four,
// aligned.
template <int kWidth>
__device__ __forceinline__ void LoadChannels(const float* from, float (&to)[kWidth]) {
  static_assert(kWidth == 1 || kWidth == 4);
  if constexpr (kWidth == 4) {
    Load4(from, to);
  } else {
    to[0] = *from;
  }
}
template <int kWidth>
__device__ __forceinline__ void StoreChannels(const float (&from)[kWidth], float* to) {
  static_assert(kWidth == 1 || kWidth == 4);
  if constexpr (kWidth == 4) {
    CheckAligned(to);
    *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  } else {
    *to = from[0];
  }
}

// For one query, by one lane: how the split joins its run, and the run the result.
template <class L>
__device__ __forceinline__ void JoinSplit(AttendQuery* query, int split, float max, float sum,
                                          const AttendPartials& partials) {
  const Runs runs(query->first, query->end, L::kSplit);
  if ((query->steps & kEndsRun) != 0) query->run += query->run_step, query->left = 0;
  const int left = query->left++;
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
  // Of two ranges the first may have no run; what has been joined weighs 1 or more.
  if (partials.continues ? query->sum == 0.0f : query->run == 0) {
    query->steps |= kFirstRun;
    query->max = query->run_max;
    query->sum = query->run_sum;
  } else {
    Join(query->run_max, query->run_sum, &query->max, &query->sum, &query->scale,
         &query->ended_scale);
  }
}

// Joins a split's sums of the kWidth channels from d on to query i's run, and a run that ends to
// the result or to `partials`.
template <class L, int kWidth>
__device__ __forceinline__ void AddToRun(const AttendTile& tile, int i, int d,
                                         const AttendPartials& partials, float (&sums)[kWidth]) {
  const AttendQuery& query = tile.queries[i];
  if (query.steps == 0) return;
  const auto join = [&](const float* to, float scale_to, float scale) {
    float before[kWidth];
    LoadChannels(to, before);
#pragma unroll
    for (int c = 0; c < kWidth; ++c) sums[c] = Blend(before[c], scale_to, sums[c], scale);
  };
  float* run = tile.run + i * L::kChannels + d;
  if ((query.steps & kOpensRun) == 0) join(run, query.run_scale, query.split_scale);
  StoreChannels(sums, run);
  if ((query.steps & kEndsRun) == 0) return;
  if (partials.sums != nullptr) {
    StoreChannels(sums, partials.Sum(i, query.run) + d);
    return;
  }
  float* result = tile.result + i * L::kChannels + d;
  if ((query.steps & kFirstRun) == 0) join(result, query.scale, query.ended_scale);
  StoreChannels(sums, result);
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_ATTEND_RUNS_CUH_
