// The part of CUDA's runtime and device language that this project uses, on the CPU: kernels run
// block by block, the threads of a block as fibers that change places at barriers and warp
// operations only. Stands in for the toolkit's header of the same name; see docs/gpu.md.
#ifndef PACKRAT_TESTS_EMULATION_CUDA_RUNTIME_H_
#define PACKRAT_TESTS_EMULATION_CUDA_RUNTIME_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

// --- Types. ---

struct dim3 {
  unsigned x, y, z;
  // NOLINTNEXTLINE(google-explicit-constructor)
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// --- Inside a kernel. ---

namespace emulation {

struct ThreadIndices {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
};
// Of the thread that runs.
extern ThreadIndices current;

// Where a barrier or a warp operation stands: threads meet at one place only. As a default argument
// it is the place of the call.
struct Place {
  const char* file;
  int line;
  static constexpr Place Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};
// The place of a call, as a default argument of a function with barriers or warp operations in it:
// those are then known by the places of the calls that are under way in their thread, too.
class Caller {
 public:
  static Caller Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return Caller(Place{file, line});
  }
  ~Caller() { innermost = outer_; }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  const Place& place() const { return place_; }
  const Caller* outer() const { return outer_; }
  static const Caller* innermost;  // Of the thread that runs; null: none.

 private:
  explicit Caller(const Place& place) : place_(place), outer_(innermost) { innermost = this; }
  const Place place_;
  const Caller* const outer_;
};
// Waits for all threads of the block that have not returned.
void SyncBlock(Place place);
// Waits for all lanes of the warp, after which the result holds what each lane gave: 32 slots of 16
// bytes, valid until the lane's next call but one. No lane may be missing or have returned.
const std::byte* SyncWarp(Place place, const void* value, size_t bytes);
// The block's dynamic shared memory, aligned to 128 bytes; NaNs at the block's start.
std::byte* SharedMemory();
[[noreturn]] void Fail(const char* format, ...);
// A device traps on loads and stores off their alignment, which a CPU mostly does not.
void CheckAligned(const void* p, size_t bytes);
// kernels/device.cuh's operations of these names. A copy takes place in its thread's wait for it
// and no sooner, so that what is read too early, or changed on the way, is seen to be.
void CopyAsync16(void* shared, const void* global);
void CopyAsyncCommit();
void CopyAsyncWait(unsigned pending);
// Of kernels that begin before the one before has ended: every thread must wait before it lets the
// next one begin, and before it ends. Until then the detector of races allows it to read nothing
// that was written since the last kernel that began alone, and to write nothing but shared memory.
void AwaitPrevious();
void BeginNext();
// For the detector of races: __threadfence(), and an atomic operation on a word, before `place`.
void Fence();
void Atomic(const void* word, size_t bytes, const void* place);

inline int Lane() {
  return static_cast<int>(
      (current.thread.x +
       current.block_dim.x * (current.thread.y + current.block_dim.y * current.thread.z)) %
      32);
}
template <class T>
T Exchange(Place place, T value, int from) {
  static_assert(sizeof(T) <= 16);
  const std::byte* slots = SyncWarp(place, &value, sizeof(T));
  if (from < 0 || from > 31) return value;
  T result;
  std::memcpy(&result, slots + from * 16, sizeof(T));
  return result;
}
inline void FullMask(unsigned mask) {
  if (mask != 0xffffffffu) Fail("warp operations take the full mask here, not %08x", mask);
}

}  // namespace emulation

#define threadIdx (::emulation::current.thread)
#define blockIdx (::emulation::current.block)
inline constexpr const dim3 &blockDim = emulation::current.block_dim,
                            &gridDim = emulation::current.grid_dim;

inline void __syncthreads(emulation::Place place = emulation::Place::Here()) {
  emulation::SyncBlock(place);
}
inline void __syncwarp(unsigned mask = 0xffffffffu,
                       emulation::Place place = emulation::Place::Here()) {
  emulation::FullMask(mask);
  emulation::SyncWarp(place, nullptr, 0);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
              emulation::Place place = emulation::Place::Here()) {
  emulation::FullMask(mask);
  const int own = emulation::Lane();
  return emulation::Exchange(place, value, own / width * width + lane % width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  emulation::Place place = emulation::Place::Here()) {
  emulation::FullMask(mask);
  const int own = emulation::Lane(), from = own ^ lanes;
  // A lane beyond one's own group of `width` is read only if it lies in an earlier one.
  return emulation::Exchange(place, value, from / width > own / width ? own : from);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   emulation::Place place = emulation::Place::Here()) {
  emulation::FullMask(mask);
  const int own = emulation::Lane(), from = own + static_cast<int>(delta);
  return emulation::Exchange(place, value, from / width != own / width ? own : from);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 emulation::Place place = emulation::Place::Here()) {
  emulation::FullMask(mask);
  const int own = emulation::Lane(), from = own - static_cast<int>(delta);
  return emulation::Exchange(place, value, from < own / width * width ? own : from);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              emulation::Place place = emulation::Place::Here()) {
  emulation::FullMask(mask);
  const std::byte* slots = emulation::SyncWarp(place, &predicate, sizeof predicate);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) {
    int value;
    std::memcpy(&value, slots + lane * 16, sizeof value);
    if (value != 0) bits |= 1u << lane;
  }
  return bits;
}
inline int __any_sync(unsigned mask, int predicate,
                      emulation::Place place = emulation::Place::Here()) {
  return __ballot_sync(mask, predicate, place) != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      emulation::Place place = emulation::Place::Here()) {
  return __ballot_sync(mask, predicate == 0, place) == 0;
}
inline void cudaGridDependencySynchronize() { emulation::AwaitPrevious(); }
inline void cudaTriggerProgrammaticLaunchCompletion() { emulation::BeginNext(); }
// One thread runs at a time and gives up its turn at barriers only: plain memory is atomic. To the
// detector of races these are no loads and stores; what they do is told to it.
inline void __threadfence() { emulation::Fence(); }
#define PACKRAT_ATOMIC __attribute__((no_sanitize("thread")))
template <class T>
PACKRAT_ATOMIC T atomicAdd(T* at, T value) {
  emulation::Atomic(at, sizeof(T), __builtin_return_address(0));
  const T old = *at;
  *at = old + value;
  return old;
}
template <class T>
PACKRAT_ATOMIC T atomicMax(T* at, T value) {
  emulation::Atomic(at, sizeof(T), __builtin_return_address(0));
  const T old = *at;
  *at = old < value ? value : old;
  return old;
}
template <class T>
PACKRAT_ATOMIC T atomicOr(T* at, T value) {
  emulation::Atomic(at, sizeof(T), __builtin_return_address(0));
  const T old = *at;
  *at = old | value;
  return old;
}
template <class T>
PACKRAT_ATOMIC T atomicExch(T* at, T value) {
  emulation::Atomic(at, sizeof(T), __builtin_return_address(0));
  const T old = *at;
  *at = value;
  return old;
}
#undef PACKRAT_ATOMIC

template <class T>
T __ldg(const T* p) {
  emulation::CheckAligned(p, sizeof(T));
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  emulation::CheckAligned(p, sizeof(T));
  return *p;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((uint64_t{a} * b) >> 32);
}
// Byte i of the result is that of x (0 to 3) or y (4 to 7) which nibble i of `selector` names.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t both = static_cast<uint64_t>(y) << 32 | x;
  unsigned bytes = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned byte = selector >> 4 * i & 7;
    bytes |= static_cast<unsigned>(both >> 8 * byte & 0xff) << 8 * i;
  }
  return bytes;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
using std::max;
using std::min;

// --- The runtime's functions, as documented for CUDA 13. Work on a stream waits until something
// synchronises with it, so that what is read too early is seen to be. ---

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInitializationError = 3,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchFailure = 719,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorUnknown = 999,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
struct CUstream_st;
struct CUevent_st;
struct CUgraph_st;
struct CUgraphExec_st;
using cudaStream_t = CUstream_st*;
using cudaEvent_t = CUevent_st*;
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraphExec_st*;
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int multiProcessorCount, major, minor, l2CacheSize;
  size_t sharedMemPerBlockOptin;
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
union cudaLaunchAttributeValue {
  int programmaticStreamSerializationAllowed;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};
inline constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2,
                          cudaHostAllocDefault = 0;

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaMalloc(void** memory, size_t bytes);
template <class T>
cudaError_t cudaMalloc(T** memory, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(memory), bytes);
}
cudaError_t cudaFree(void* memory);
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned flags);
template <class T>
cudaError_t cudaHostAlloc(T** memory, size_t bytes, unsigned flags) {
  return cudaHostAlloc(reinterpret_cast<void**>(memory), bytes, flags);
}
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemset(void* memory, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
// By emulation::milliseconds.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

// Of a kernel: what it may ask for at launch beyond 48 KB.
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

namespace emulation {

// What begins before the work before it has ended: only kernels, after kernels.
enum class WorkKind { kOther, kKernel, kOverlappingKernel };

// Queues work on a stream, or records it where the stream is being captured.
cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work,
                    WorkKind kind = WorkKind::kOther);

// A launch: `body` calls `kernel`, and runs once for each thread.
cudaError_t LaunchKernel(const void* kernel, const cudaLaunchConfig_t& config,
                         std::function<void()> body);

}  // namespace emulation

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...),
                               A... arguments) {
  return emulation::LaunchKernel(reinterpret_cast<const void*>(kernel), *config,
                                 [=] { kernel(static_cast<P>(arguments)...); });
}

#endif  // PACKRAT_TESTS_EMULATION_CUDA_RUNTIME_H_
