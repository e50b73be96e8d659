// The scale of a row's norm (RmsNorm(), kernels/elementwise.h) in one order of additions, whoever
// makes it. Of 256 chains fma(x, x, sum) the i-th takes groups i, i + 256, ... of eight elements.
// WarpSum() adds 32 chains at a time, and these eight sums are added to zero in order. A block has
// a chain for each thread; a warp alone has eight for each lane.
#ifndef PACKRAT_KERNELS_NORM_CUH_
#define PACKRAT_KERNELS_NORM_CUH_

#include "kernels/device.cuh"

namespace packrat::gpu {

constexpr int kNormThreads = 256, kNormGroup = 8;
constexpr int kNormStep = kNormThreads * kNormGroup;  // Elements that all chains take together.

__device__ __forceinline__ float AddSquares(const float (&v)[kNormGroup], float sum) {
#pragma unroll
  for (int j = 0; j < kNormGroup; ++j) sum = fmaf(v[j], v[j], sum);
  return sum;
}

__device__ __forceinline__ float RmsScaleOf(float sum, int n, float eps) {
  return rsqrtf(sum / static_cast<float>(n) + eps);
}

// By a block of kNormThreads. load(i, v): elements i to i + 7 of a row of n, zero beyond its end.
// scratch: as BlockSum() asks for it.
template <class Load>
__device__ __forceinline__ float RmsScale(int n, float eps, float* scratch, const Load& load) {
  float sum = 0.0f;
  for (int i = threadIdx.x * kNormGroup; i < n; i += kNormStep) {
    float v[kNormGroup];
    load(i, v);
    sum = AddSquares(v, sum);
  }
  return RmsScaleOf(BlockSum(sum, scratch), n, eps);
}

// The same by a warp, so that a block makes eight rows' at a time and waits for their memory once.
// load() is asked for groups beyond the row's end too: they are zero, which changes no sum.
template <class Load>
__device__ __forceinline__ float RmsScaleByWarp(int n, float eps, const Load& load) {
  constexpr int kWarps = kNormThreads / kWarp;
  float sums[kWarps] = {};
  for (int first = 0; first < n; first += kNormStep) {
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      float v[kNormGroup];
      load(first + (w * kWarp + Lane()) * kNormGroup, v);
      sums[w] = AddSquares(v, sums[w]);
    }
  }
  // WarpSum() of each, side by side.
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sums[w] += __shfl_xor_sync(kAllLanes, sums[w], distance);
  }
  float sum = 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += sums[w];
  return RmsScaleOf(sum, n, eps);
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_NORM_CUH_
