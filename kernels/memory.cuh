// Memory as kernels see it: shared memory, asynchronous copies into it, loads of device memory, and
// the storage types. Part of device.cuh.
#ifndef PACKRAT_KERNELS_MEMORY_CUH_
#define PACKRAT_KERNELS_MEMORY_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/gpu.h"

namespace packrat::gpu {

using BFloat16 = __nv_bfloat16;

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

// A copy of many bytes in a row, which lies in shared memory itself and is made once in a block's
// life. From compute capability 9.0 on it is one instruction; before, copies of 16 bytes that are
// part of each thread's open group.
class BulkCopy {
 public:
  // All threads. Both ends are aligned to 16 bytes, which `bytes` is a multiple of; nobody has
  // touched that part of shared memory before.
  __device__ __forceinline__ void Start(void* shared, const void* global, int bytes) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
    if (threadIdx.x != 0) return;
    const auto barrier = static_cast<unsigned>(__cvta_generic_to_shared(&arrived_));
    const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile(
        "mbarrier.init.shared::cta.b64 [%0], 1;\n"
        "fence.proxy.async.shared::cta;\n"  // What copies finds the barrier as it was made.
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %3;\n"
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%1], [%2], %3, [%0];" ::
            "r"(barrier),
        "r"(to), "l"(global), "r"(bytes)
        : "memory");
#else
    const int step = static_cast<int>(blockDim.x) * 16;
    for (int at = static_cast<int>(threadIdx.x) * 16; at < bytes; at += step) {
      CopyAsync16(static_cast<std::byte*>(shared) + at, static_cast<const std::byte*>(global) + at);
    }
#endif
  }
  // All threads, of a copy that was started before a barrier of the block; it is there after one
  // more.
  __device__ __forceinline__ void Wait() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
    const auto barrier = static_cast<unsigned>(__cvta_generic_to_shared(&arrived_));
    asm volatile(
        "{\n .reg .pred there;\nagain:\n"
        " mbarrier.try_wait.parity.shared::cta.b64 there, [%0], 0;\n"
        " @!there bra again;\n}" ::"r"(barrier)
        : "memory");
#else
    CopyAsyncWait<0>();
#endif
  }

 private:
  [[maybe_unused]] uint64_t arrived_;  // An mbarrier, of one phase.
};

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

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MEMORY_CUH_
