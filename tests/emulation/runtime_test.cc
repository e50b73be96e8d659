// What the emulated runtime must show for the tests on it to mean something.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "kernels/device.cuh"
#include "tests/emulation/emulation.h"

namespace packrat {
namespace {

__global__ void CopyKernel(const float* from, float* to) { *to = *from; }

// --- What a device leaves undefined, and the emulation refuses. ---

__global__ void DifferentBarriersKernel() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void DifferentShufflesKernel(float* to) {
  float x = 1.0f;
  if (gpu::Lane() < 16) {
    x = __shfl_xor_sync(gpu::kAllLanes, x, 1);
  } else {
    x = __shfl_xor_sync(gpu::kAllLanes, x, 1);
  }
  if (gpu::Lane() == 0) *to = x;
}
// Here the exchanges are one line in WarpSum().
__global__ void DifferentSumsKernel(float* to) {
  float x = 1.0f;
  if (gpu::Lane() < 16) {
    x = gpu::WarpSum(x);
  } else {
    x = gpu::WarpSum(x);
  }
  if (gpu::Lane() == 0) *to = x;
}
// Within a warp all is well, and the barrier is one line in BlockSum().
__global__ void DifferentBlockSumsKernel(float* to) {
  auto* scratch = reinterpret_cast<float*>(gpu::SharedMemory());
  float x = 1.0f;
  if (gpu::Warp() == 0) {
    x = gpu::BlockSum(x, scratch);
  } else {
    x = gpu::BlockSum(x, scratch);
  }
  if (threadIdx.x == 0) *to = x;
}
__global__ void DifferentProductsKernel(float* to) {
  const unsigned a[4] = {}, b[2] = {};
  float d[4] = {};
  if (gpu::Lane() < 16) {
    gpu::MmaBf16(a, b, d);
  } else {
    gpu::MmaBf16(a, b, d);
  }
  if (gpu::Lane() == 0) *to = d[0];
}
// Calls one after the other and within each other, by all.
__global__ void SumsOfSumsKernel(float* to) {
  auto* scratch = reinterpret_cast<float*>(gpu::SharedMemory());
  float sum = gpu::WarpSum(gpu::WarpMax(1.0f)) + gpu::WarpSum(2.0f);
  for (int i = 0; i < 2; ++i) {
    __syncthreads();
    sum = gpu::BlockSum(sum, scratch);
  }
  if (threadIdx.x == 0) *to = sum;
}
// Lane 3 has returned where the others exchange.
__global__ void MissingLaneKernel(float* to) {
  if (threadIdx.x == 3) return;
  *to = gpu::WarpSum(1.0f);
}
__global__ void SumKernel(float* to) {
  const float sum = gpu::WarpSum(1.0f);
  if (threadIdx.x == 0) *to = sum;
}
// Half of the threads return; the others may still meet.
__global__ void ReturnedThreadsKernel(float* to) {
  if (threadIdx.x >= 32) return;
  __syncthreads();
  if (threadIdx.x == 0) *to = 5.0f;
}
__global__ void LoadFourKernel(const float* from, float* to) {
  float four[4];
  gpu::Load4(from, four);
  *to = four[3];
}
__global__ void ReadFourKernel(const float* from, float* to) {
  *to = __ldg(reinterpret_cast<const float4*>(from)).w;
}
__global__ void LastByteKernel(int shared_bytes, float* to) {
  reinterpret_cast<float*>(gpu::SharedMemory())[shared_bytes / 4 - 1] = 5.0f;
  *to = reinterpret_cast<float*>(gpu::SharedMemory())[shared_bytes / 4 - 1];
}

__global__ void OverlappingKernel(unsigned waiting, bool early, float* to) {
  if (early) cudaTriggerProgrammaticLaunchCompletion();
  if (threadIdx.x < waiting) gpu::AwaitPrevious();
  if (waiting == 32 && threadIdx.x == 0) *to += 1.0f;
}

class RuntimeTest : public testing::Test {
 protected:
  void SetUp() override {
    emulation::Reset();
    ASSERT_EQ(cudaMalloc(&from_, sizeof(float)), cudaSuccess);
    ASSERT_EQ(cudaMalloc(&to_, sizeof(float)), cudaSuccess);
    ASSERT_EQ(cudaMemset(from_, 0, sizeof(float)), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
  }
  void TearDown() override {
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
    EXPECT_EQ(cudaFree(from_), cudaSuccess);
    EXPECT_EQ(cudaFree(to_), cudaSuccess);
  }
  // What a kernel on the stream, which does not wait for the default one, reads.
  float Read() {
    EXPECT_TRUE(gpu::Launch("Copy", CopyKernel, dim3(1), 32, 0, stream_, from_, to_).ok());
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    float value = -1;
    EXPECT_EQ(cudaMemcpy(&value, to_, sizeof value, cudaMemcpyDeviceToHost), cudaSuccess);
    return value;
  }

  float *from_ = nullptr, *to_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

// cudaMemcpy() returns when pageable values are staged.
TEST_F(RuntimeTest, PageableCopiesArriveWhenTheirStreamIsWaitedFor) {
  float value = 3;
  ASSERT_EQ(cudaMemcpy(from_, &value, sizeof value, cudaMemcpyHostToDevice), cudaSuccess);
  value = 4;
  EXPECT_EQ(Read(), 0.0f) << "a race does not show";
  ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  EXPECT_EQ(Read(), 3.0f);
}

TEST_F(RuntimeTest, PinnedCopiesHaveArrived) {
  float* value = nullptr;
  ASSERT_EQ(cudaHostAlloc(&value, sizeof(float), 0), cudaSuccess);
  *value = 3;
  ASSERT_EQ(cudaMemcpy(from_, value, sizeof(float), cudaMemcpyHostToDevice), cudaSuccess);
  EXPECT_EQ(Read(), 3.0f);
  ASSERT_EQ(cudaFreeHost(value), cudaSuccess);
}

// An asynchronous copy from pageable memory has taken the values when it returns, one from pinned
// memory has not.
TEST_F(RuntimeTest, AsynchronousCopiesReadPinnedMemoryLater) {
  float pageable = 3;
  ASSERT_EQ(cudaMemcpyAsync(from_, &pageable, sizeof pageable, cudaMemcpyHostToDevice, stream_),
            cudaSuccess);
  pageable = 4;
  EXPECT_EQ(Read(), 3.0f);
  float* pinned = nullptr;
  ASSERT_EQ(cudaHostAlloc(&pinned, sizeof(float), 0), cudaSuccess);
  *pinned = 5;
  ASSERT_EQ(cudaMemcpyAsync(from_, pinned, sizeof(float), cudaMemcpyHostToDevice, stream_),
            cudaSuccess);
  *pinned = 6;
  EXPECT_EQ(Read(), 6.0f);
  ASSERT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST_F(RuntimeTest, ThreadsMeetAtOnePlace) {
  const auto run = [&](int threads, auto kernel, auto... arguments) {
    EXPECT_TRUE(gpu::Launch("Test", kernel, dim3(1), threads, 64, stream_, arguments...).ok());
    return cudaStreamSynchronize(stream_);
  };
  EXPECT_DEATH(run(64, DifferentBarriersKernel), "waits at .*, others at .*runtime_test");
  EXPECT_DEATH(run(32, DifferentShufflesKernel, to_), "waits at .*, others at .*runtime_test");
  constexpr char kCalls[] =
      "waits at .*device.cuh.* from .*runtime_test.*, others at .*runtime_test";
  EXPECT_DEATH(run(32, DifferentSumsKernel, to_), kCalls);
  EXPECT_DEATH(run(64, DifferentBlockSumsKernel, to_), kCalls);
  EXPECT_DEATH(run(32, DifferentProductsKernel, to_),
               "waits at .* from .*, others at .*runtime_test");
  EXPECT_DEATH(run(32, MissingLaneKernel, to_), "without lane 3");
  EXPECT_DEATH(run(48, SumKernel, to_), "without lane 16");
  EXPECT_EQ(run(64, SumKernel, to_), cudaSuccess);
  EXPECT_EQ(run(64, ReturnedThreadsKernel, to_), cudaSuccess);
  EXPECT_EQ(run(64, SumsOfSumsKernel, to_), cudaSuccess);
  float sum = 0;
  ASSERT_EQ(cudaMemcpy(&sum, to_, sizeof sum, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(sum, 96.0f * 64 * 64);
}

TEST_F(RuntimeTest, VectorsAreAligned) {
  float* array = nullptr;
  ASSERT_EQ(cudaMalloc(&array, 64), cudaSuccess);
  const auto run = [&](auto kernel, const float* from) {
    EXPECT_TRUE(gpu::Launch("Test", kernel, dim3(1), 32, 0, stream_, from, to_).ok());
    return cudaStreamSynchronize(stream_);
  };
  for (const auto kernel : {LoadFourKernel, ReadFourKernel}) {
    EXPECT_EQ(run(kernel, array + 4), cudaSuccess);
    EXPECT_DEATH(run(kernel, array + 1), "not aligned to 16 bytes");
    EXPECT_DEATH(run(kernel, array + 2), "not aligned to 16 bytes");
  }
  ASSERT_EQ(cudaFree(array), cudaSuccess);
}

// More than 48 KB of shared memory are there for a kernel that has asked for them.
TEST_F(RuntimeTest, SharedMemoryBeyond48KbIsAskedFor) {
  constexpr int kLimit = 48 << 10;
  const auto launch = [&](int bytes) {
    const cudaLaunchConfig_t config{dim3(1), dim3(32), static_cast<size_t>(bytes),
                                    stream_, nullptr,  0};
    return cudaLaunchKernelEx(&config, LastByteKernel, bytes, to_);
  };
  EXPECT_EQ(launch(kLimit), cudaSuccess);
  EXPECT_EQ(launch(kLimit + 4), cudaErrorInvalidValue);
  constexpr auto kMost = cudaFuncAttributeMaxDynamicSharedMemorySize;
  EXPECT_EQ(cudaFuncSetAttribute(LastByteKernel, kMost, kLimit + 1024), cudaSuccess);
  EXPECT_EQ(launch(kLimit + 1024), cudaSuccess);
  EXPECT_EQ(launch(kLimit + 1028), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(LastByteKernel, kMost, 228 << 10), cudaErrorInvalidValue);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  constexpr int kMore = 100 << 10;  // Launch() asks by itself.
  EXPECT_TRUE(gpu::Launch("Last", LastByteKernel, dim3(1), 32, kMore, stream_, kMore, to_).ok());
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
}

TEST_F(RuntimeTest, CapturesAllowNeitherAllocationsNorTheDefaultStream) {
  void* memory = nullptr;
  ASSERT_EQ(cudaMalloc(&memory, 4), cudaSuccess);
  const std::vector<std::function<cudaError_t()>> calls = {
      [&] { return cudaMalloc(&memory, 4); },
      [&] { return cudaHostAlloc(&memory, 4, 0); },
      [&] { return cudaFree(memory); },
      [&] { return cudaMemset(memory, 0, 4); },
      [&] { return cudaMemcpy(memory, memory, 4, cudaMemcpyDeviceToDevice); },
      [&] { return cudaDeviceSynchronize(); },
  };
  Read();  // The kernel is known.
  for (const auto& call : calls) {
    cudaGraph_t graph = nullptr;
    ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    EXPECT_EQ(call(), cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph, nullptr);
    ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    EXPECT_TRUE(gpu::Launch("Copy", CopyKernel, dim3(1), 32, 0, stream_, from_, to_).ok());
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
    ASSERT_NE(graph, nullptr);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  }
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
}

// The driver loads a kernel when it is first used, which it must not do during a capture.
TEST_F(RuntimeTest, KernelsAreFirstUsedOutsideOfCaptures) {
  const auto capture = [&] {
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    const bool launched = gpu::Launch("Copy", CopyKernel, dim3(1), 32, 0, stream_, from_, to_).ok();
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph) == cudaSuccess, launched);
    if (graph != nullptr) cudaGraphDestroy(graph);
    return launched;
  };
  EXPECT_FALSE(capture());
  Read();
  EXPECT_TRUE(capture());
}

// Kernels that begin before the one before has ended: after kernels only, and all threads wait.
TEST_F(RuntimeTest, OverlappingKernelsWaitForTheOneBefore) {
  const CudaStream overlap(stream_, true);
  const auto launch = [&](const CudaStream& stream, unsigned waiting = 32, bool early = false) {
    return gpu::Launch("Overlapping", OverlappingKernel, dim3(2), 32, 0, stream, waiting, early,
                       to_)
        .ok();
  };
  const auto wait = [&] { return cudaStreamSynchronize(stream_); };
  const auto begin = [&] { EXPECT_TRUE(launch(stream_)); };
  const auto run = [&](unsigned waiting, bool early) {
    begin();
    launch(overlap, waiting, early);
    wait();
  };
  run(32, false);
  EXPECT_EQ(emulation::counters.launches, 2);
  EXPECT_EQ(emulation::counters.overlapping_launches, 1);
  EXPECT_DEATH(run(0, false), "ends without a wait for the kernel before");
  EXPECT_DEATH(run(31, false), "thread 31: ends without a wait for the kernel before");
  EXPECT_DEATH(run(32, true), "lets the next kernel begin before it has waited");
  // Alone it need not wait.
  EXPECT_TRUE(launch(stream_, 0, true));
  EXPECT_EQ(wait(), cudaSuccess);
  const auto after_copy = [&] {
    begin();
    cudaMemsetAsync(from_, 0, sizeof(float), stream_);
    launch(overlap);
    wait();
  };
  EXPECT_DEATH(after_copy(), "before the work before it has ended, which is no kernel");
  const auto graph = [&](const CudaStream& first) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    EXPECT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    EXPECT_TRUE(launch(first) && launch(overlap));
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    EXPECT_EQ(cudaGraphLaunch(exec, stream_), cudaSuccess);
    EXPECT_EQ(wait(), cudaSuccess);
    EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  };
  graph(stream_);
  EXPECT_EQ(emulation::counters.overlapping_launches, 2);
  EXPECT_DEATH(graph(overlap), "before the work before it has ended, which is no kernel");
  emulation::machine.major = 8;
  EXPECT_FALSE(launch(overlap)) << "a device that cannot";
}

}  // namespace
}  // namespace packrat
