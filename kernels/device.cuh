// The one door from the kernels to CUDA's device language: launching, shared memory, asynchronous
// copies, tensor cores, and what all kernels need of warps and storage types. What is not standard
// C++ with CUDA's named functions lives here, so that the same kernels compile for the CPU against
// tests/emulation.
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

namespace packrat::gpu {

// The end of a function's parameters. The emulation knows a barrier or warp operation by its place
// in the source, which lanes that have parted must not share; with this, by that of the call too.
#ifdef __CUDACC__
#define PACKRAT_CALLER
#else
#define PACKRAT_CALLER , const emulation::Caller& = emulation::Caller::Here()
#endif

using BFloat16 = __nv_bfloat16;
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

// --- Memory. ---

// The block's dynamic shared memory, aligned to 128 bytes.
__device__ __forceinline__ std::byte* SharedMemory() {
#ifdef __CUDACC__
  extern __shared__ __align__(128) unsigned char packrat_shared_memory[];
  return reinterpret_cast<std::byte*>(packrat_shared_memory);
#else
  return emulation::SharedMemory();
#endif
}

// Starts a copy of 16 bytes, both ends aligned, from device to shared memory; it is there after a
// CopyAsyncWait() and a barrier.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global) {
#ifdef __CUDACC__
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global));
#else
  emulation::CopyAsync16(shared, global);
#endif
}
// Ends a group of copies.
__device__ __forceinline__ void CopyAsyncCommit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;");
#else
  emulation::CopyAsyncCommit();
#endif
}
// Waits until at most kPending of the latest groups are under way.
template <int kPending>
__device__ __forceinline__ void CopyAsyncWait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  emulation::CopyAsyncWait(kPending);
#endif
}

// Starts to bring 128 bytes around p into the second cache.
__device__ __forceinline__ void PrefetchL2([[maybe_unused]] const void* p) {
#ifdef __CUDACC__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

// 16 or 8 bytes, aligned; zero, and nothing is read, unless `inside`. Without a branch, so that
// many such loads are under way together; they stay on their side of AwaitPrevious().
__device__ __forceinline__ uint4 LoadIf16(const void* p, bool inside) {
#ifdef __CUDACC__
  uint4 v;
  asm volatile(
      "{\n .reg .pred inside;\n setp.ne.s32 inside, %5, 0;\n"
      " mov.b32 %0, 0;\n mov.b32 %1, 0;\n mov.b32 %2, 0;\n mov.b32 %3, 0;\n"
      " @inside ld.global.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
      : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)
      : "l"(p), "r"(static_cast<int>(inside)));
  return v;
#else
  uint4 v = {};
  if (!inside) return v;
  emulation::CheckAligned(p, sizeof v);
  memcpy(&v, p, sizeof v);
  return v;
#endif
}

__device__ __forceinline__ uint2 LoadIf8(const void* p, bool inside) {
#ifdef __CUDACC__
  uint2 v;
  asm volatile(
      "{\n .reg .pred inside;\n setp.ne.s32 inside, %3, 0;\n mov.b32 %0, 0;\n mov.b32 %1, 0;\n"
      " @inside ld.global.v2.u32 {%0, %1}, [%2];\n}"
      : "=&r"(v.x), "=&r"(v.y)
      : "l"(p), "r"(static_cast<int>(inside)));
  return v;
#else
  uint2 v = {};
  if (!inside) return v;
  emulation::CheckAligned(p, sizeof v);
  memcpy(&v, p, sizeof v);
  return v;
#endif
}

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(BFloat16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T FromFloat(float x);
template <>
__device__ __forceinline__ float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ BFloat16 FromFloat<BFloat16>(float x) {
  return __float2bfloat16(x);
}

// The float16 in the lower half, exactly.
__device__ __forceinline__ float HalfToFloat(unsigned bits) {
#ifdef __CUDACC__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<unsigned short>(bits)));
  return value;
#else
  const auto half = static_cast<uint16_t>(bits);
  return LoadAsFloat(&half, 0, DType::kF16);
#endif
}

// 16 or 8 bytes, aligned, from the second cache. The compiler may move it to where p is known,
// which is to come from memory that was read after AwaitPrevious().
__device__ __forceinline__ uint4 ReadFound16(const void* p) {
#ifdef __CUDACC__
  uint4 v;
  asm("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
#else
  return __ldcg(static_cast<const uint4*>(p));
#endif
}
__device__ __forceinline__ uint2 ReadFound8(const void* p) {
#ifdef __CUDACC__
  uint2 v;
  asm("ld.global.cg.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
#else
  return __ldcg(static_cast<const uint2*>(p));
#endif
}

// Element i of an array of `type`.
__device__ __forceinline__ float LoadValue(const void* p, size_t i, DType type) {
  return type == DType::kF32 ? static_cast<const float*>(p)[i]
                             : ToFloat(static_cast<const BFloat16*>(p)[i]);
}

__device__ __forceinline__ void StoreValue(void* p, size_t i, DType type, float value) {
  if (type == DType::kF32) {
    static_cast<float*>(p)[i] = value;
  } else {
    static_cast<BFloat16*>(p)[i] = FromFloat<BFloat16>(value);
  }
}

__device__ __forceinline__ bool IsFinite(float x) {
  return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u;
}

// Fails under emulation where a device would trap.
template <int kBytes = 16>
__device__ __forceinline__ void CheckAligned([[maybe_unused]] const void* p) {
#ifndef __CUDACC__
  emulation::CheckAligned(p, kBytes);
#endif
}

// Four neighbours, aligned to their size.
__device__ __forceinline__ void Load4(const float* p, float* out) {
  CheckAligned(p);
  const float4 a = *reinterpret_cast<const float4*>(p);
  out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
}
__device__ __forceinline__ void Load4(const BFloat16* p, float* out) {
  CheckAligned<8>(p);
  const uint2 a = *reinterpret_cast<const uint2*>(p);
  out[0] = __uint_as_float(a.x << 16), out[1] = __uint_as_float(a.x & 0xffff0000u);
  out[2] = __uint_as_float(a.y << 16), out[3] = __uint_as_float(a.y & 0xffff0000u);
}

// Eight neighbours, aligned to 16 bytes.
__device__ __forceinline__ void Load8(const float* p, float* out) {
  CheckAligned(p);
  const float4 a = *reinterpret_cast<const float4*>(p);
  const float4 b = *reinterpret_cast<const float4*>(p + 4);
  out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
  out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}
__device__ __forceinline__ void Load8(const BFloat16* p, float* out) {
  CheckAligned(p);
  const uint4 a = *reinterpret_cast<const uint4*>(p);
  const unsigned words[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // The lower half of a word comes first.
    out[2 * i] = __uint_as_float(words[i] << 16);
    out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

// Stores eight neighbours, aligned as for Load8().
__device__ __forceinline__ void Store8(const float* values, float* p) {
  CheckAligned(p);
  *reinterpret_cast<float4*>(p) = make_float4(values[0], values[1], values[2], values[3]);
  *reinterpret_cast<float4*>(p + 4) = make_float4(values[4], values[5], values[6], values[7]);
}
__device__ __forceinline__ void Store8(const float* values, BFloat16* p) {
  CheckAligned(p);
  BFloat16 halves[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) halves[i] = __float2bfloat16(values[i]);
  uint4 packed;
  memcpy(&packed, halves, sizeof packed);
  *reinterpret_cast<uint4*>(p) = packed;
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

// --- Functions of activations; exact to a few roundings, finite wherever the result is. ---

__device__ __forceinline__ float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float Silu(float x) { return x * Sigmoid(x); }
// x (1 + tanh(u)) / 2 = x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
__device__ __forceinline__ float GeluTanh(float x) {
  return x * Sigmoid(x * fmaf(x * x, 0.0713548163f, 1.59576912f));
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_DEVICE_CUH_
