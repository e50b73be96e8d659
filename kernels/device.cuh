// The one door from the kernels to CUDA's device language: launching, tensor cores, and what all
// kernels need of warps; memory.cuh, which is part of it, has loads, copies and storage types. What
// is not standard C++ with CUDA's named functions lives in the two, so that the same kernels
// compile for the CPU against tests/emulation.
//
// Kernels keep to these rules: multiply-adds are written as fmaf() (compiled with -fmad=false, so
// that no instance of a template rounds differently from another); shared memory is dynamic, by
// SharedMemory(); warp operations involve all lanes of full warps; functions with warp operations
// that are called from several places take PACKRAT_CALLER.
#ifndef PACKRAT_KERNELS_DEVICE_CUH_
#define PACKRAT_KERNELS_DEVICE_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>

#include "absl/status/status.h"
#include "kernels/gpu.h"
#include "kernels/memory.cuh"

namespace packrat::gpu {

// The end of a function's parameters. The emulation knows a barrier or warp operation by its place
// in the source, which lanes that have parted must not share; with this, by that of the call too.
#ifdef __CUDACC__
#define PACKRAT_CALLER
#else
#define PACKRAT_CALLER , const emulation::Caller& = emulation::Caller::Here()
#endif

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int kWarp = 32;

// --- Launching. ---

// INTERNAL with CUDA's name for it, or OK.
inline absl::Status ToStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  char text[160];
  std::snprintf(text, sizeof text, "%s: %s", what, cudaGetErrorName(error));
  return absl::InternalError(text);
}

// kernel<<<grid, block, shared_bytes, stream>>>(arguments...); where launches on the stream
// overlap, it may begin before the kernel before it has ended.
template <class... P, class... A>
absl::Status Launch(const char* name, void (*kernel)(P...), dim3 grid, int block,
                    size_t shared_bytes, CudaStream stream, A... arguments) {
  cudaError_t error = cudaSuccess;
  if (shared_bytes > (48 << 10)) {  // More than a block gets without asking.
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  }
  if (error == cudaSuccess) {
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(block);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = stream.overlap ? 1 : 0;
    error = cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
  }
  if (error != cudaSuccess) cudaGetLastError();  // Said here, not once more by the next launch.
  return ToStatus(error, name);
}

// Every thread of every kernel calls it, before it reads what kernels write and before it writes
// anything but shared memory: waits until the kernel before has ended, with all that it wrote to be
// seen, and lets the next one begin. So each kernel has ended when the next but one begins, and
// what comes before the call overlaps with one other kernel. Where launches do not overlap there is
// nothing to wait for; before compute capability 9.0 they never do.
//
// Loads that are asm or named functions must be volatile, or the compiler may move them across the
// call; and not of ld.global.nc, which is for what nobody writes while a kernel runs: a kernel that
// began early runs while its inputs are written.
__device__ __forceinline__ void AwaitPrevious() {
#if !defined(__CUDACC__) || __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

// Bytes of shared memory of a multiprocessor, of which each block takes kReservedShared more than
// it asks for; 0 where there is no device. Compute capability 9.0 and 10.0 have kSharedOfSm90.
inline constexpr size_t kReservedShared = 1024;
inline constexpr size_t kSharedOfSm90 = 228 << 10;
inline size_t SharedOfMultiprocessor() {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device) !=
      cudaSuccess) {
    return 0;
  }
  return static_cast<size_t>(bytes);
}

// 0 where there is no device.
inline int Multiprocessors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
    return 0;
  }
  return count;
}

// --- Warps and blocks. The order of additions: a butterfly over lane distances 16, 8, 4, 2, 1 (all
// lanes get the same bits, since addition commutes). ---

__device__ __forceinline__ int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int Warp() { return static_cast<int>(threadIdx.x) / kWarp; }

template <int kLanes = kWarp>
__device__ __forceinline__ float WarpSum(float x PACKRAT_CALLER) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, distance);
  }
  return x;
}
template <int kLanes = kWarp>
__device__ __forceinline__ float WarpMax(float x PACKRAT_CALLER) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, distance));
  }
  return x;
}

// Sum over a block of whole warps; every thread gets it. scratch: (warps) floats of shared memory,
// free again after the next barrier.
__device__ __forceinline__ float BlockSum(float x, float* scratch PACKRAT_CALLER) {
  x = WarpSum(x);
  if (Lane() == 0) scratch[Warp()] = x;
  __syncthreads();
  float sum = 0.0f;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  for (int w = 0; w < warps; ++w) sum += scratch[w];
  return sum;
}

// --- Tensor cores. ---

// d (16, 8) += a (16, 16) b (16, 8): bfloat16, exact products, float32 sums in an order that is the
// same for every element. A lane with g = lane / 4 and t = lane % 4 holds pairs of neighbours, the
// first in the lower half of a word: a rows g, g + 8, g, g + 8 at k = 2t, 2t, 2t + 8, 2t + 8; b
// column g at k = 2t, 2t + 8; d (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
__device__ __forceinline__ void MmaBf16(const unsigned (&a)[4], const unsigned (&b)[2],
                                        float (&d)[4] PACKRAT_CALLER) {
#ifdef __CUDACC__
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulation::MmaBf16(a, b, d);
#endif
}

// d (16, 8) += a (16, 32) b (32, 8), where a lane holds eight neighbours along k of rows: at
// 8 (lane % 4) of rows g (low) and g + 8 (high) of a, and of column g of b, with g = lane / 4.
__device__ __forceinline__ void MultiplyEight(const uint4& low, const uint4& high, const uint4& b,
                                              float (&d)[4] PACKRAT_CALLER) {
  const unsigned a0[4] = {low.x, high.x, low.y, high.y}, b0[2] = {b.x, b.y};
  const unsigned a1[4] = {low.z, high.z, low.w, high.w}, b1[2] = {b.z, b.w};
  MmaBf16(a0, b0, d);
  MmaBf16(a1, b1, d);
}

// Two numbers, each as a sum of two bfloat16: *high, the nearest, and *low, the nearest to what is
// left, so that the sum has 16 bits or more. The first is in the lower half of a word.
__device__ __forceinline__ void SplitPair(float x, float y, unsigned* high, unsigned* low) {
  const __nv_bfloat162 nearest = __floats2bfloat162_rn(x, y);
  memcpy(high, &nearest, sizeof *high);
  const __nv_bfloat162 rest = __floats2bfloat162_rn(x - __uint_as_float(*high << 16),
                                                    y - __uint_as_float(*high & 0xffff0000u));
  memcpy(low, &rest, sizeof *low);
}

// a - b of two pairs of bfloat16, each rounded.
__device__ __forceinline__ unsigned SubtractPairs(unsigned a, unsigned b) {
  __nv_bfloat162 pairs[2];
  memcpy(&pairs[0], &a, sizeof a);
  memcpy(&pairs[1], &b, sizeof b);
  const __nv_bfloat162 difference = __hsub2(pairs[0], pairs[1]);
  unsigned bits;
  memcpy(&bits, &difference, sizeof bits);
  return bits;
}

// a b + c, rounded once, or c as it is. Without a branch.
__device__ __forceinline__ float FmaIf(bool add, float a, float b, float c) {
#ifdef __CUDACC__
  asm("{\n .reg .pred add;\n setp.ne.s32 add, %3, 0;\n @add fma.rn.f32 %0, %1, %2, %0;\n}"
      : "+f"(c)
      : "f"(a), "f"(b), "r"(static_cast<int>(add)));
  return c;
#else
  return add ? fmaf(a, b, c) : c;
#endif
}

// --- Functions of activations; exact to a few roundings, finite wherever the result is. ---

__device__ __forceinline__ float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float Silu(float x) { return x * Sigmoid(x); }
// x (1 + tanh(u)) / 2 = x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
__device__ __forceinline__ float GeluTanh(float x) {
  return x * Sigmoid(x * fmaf(x * x, 0.0713548163f, 1.59576912f));
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_DEVICE_CUH_
