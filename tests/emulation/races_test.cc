// The detector of races sees each of these, and nothing where there is none.
#include "tests/emulation/races.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "kernels/device.cuh"
#include "tests/emulation/emulation.h"

namespace packrat {
namespace {

__device__ int* SharedInts() { return reinterpret_cast<int*>(gpu::SharedMemory()); }
__device__ int Thread() { return static_cast<int>(threadIdx.x); }

// What stands between a thread's store and another's load.
enum class Between { kNothing, kBarrier, kWarpBarrier, kShuffle };
template <Between kBetween>
__device__ void Separate() {
  if (kBetween == Between::kBarrier) __syncthreads();
  if (kBetween == Between::kWarpBarrier) __syncwarp();
  if (kBetween == Between::kShuffle) __shfl_sync(gpu::kAllLanes, 1, 0);
}

template <Between kBetween>
__global__ void ReadOfOtherKernel(int distance, int* to) {
  SharedInts()[Thread()] = Thread();
  Separate<kBetween>();
  to[Thread()] = SharedInts()[Thread() ^ distance];
}
// All read what one then overwrites.
template <Between kBetween>
__global__ void OverwriteKernel(int writer, int* to) {
  if (Thread() == 0) SharedInts()[0] = 5;
  __syncthreads();
  to[Thread()] = SharedInts()[0];
  Separate<kBetween>();
  if (Thread() == writer) SharedInts()[0] = 7;
}
// Two lanes each read in warp 0, the one before a barrier of the warp.
__global__ void ReadOnBothSidesKernel(bool all, int* to) {
  if (all || Thread() == 3) to[Thread()] = SharedInts()[0];
  __syncwarp();
  if (Thread() == 4) to[Thread()] = SharedInts()[0];
  if (Thread() == 4) SharedInts()[0] = 7;
}
__global__ void OverlapKernel(bool barrier, int* to) {
  if (Thread() == 0) SharedInts()[3] = 1;
  if (barrier) __syncthreads();
  const uint4 all = *reinterpret_cast<const uint4*>(SharedInts());
  to[Thread()] = static_cast<int>(all.w);
}
__global__ void NeighboursKernel(__nv_bfloat16* to) {
  to[blockIdx.x * blockDim.x + threadIdx.x] = __float2bfloat16(1.0f);
}

__global__ void OneWordKernel(int block, int thread, int* to) {
  if (static_cast<int>(blockIdx.x) >= block && Thread() == thread) to[0] = 3;
}
__global__ void ReadByAnotherBlockKernel(unsigned reader, int* to) {
  if (blockIdx.x == reader && Thread() == 5) to[40] = to[0];
  if (blockIdx.x != reader && Thread() == 7) to[0] = 1;
}
__global__ void SharedOfEachBlockKernel() {
  if (threadIdx.x == blockIdx.x) SharedInts()[0] = 1;
}
__global__ void AtomicsKernel(int* to) { atomicAdd(to, 1); }
__global__ void AtomicsAndAReadKernel(int* to) {
  atomicAdd(to, 1);
  if (Thread() == 9) to[9] = to[0];
}
template <Between kBetween>
__global__ void CountKernel(int* to) {
  if (Thread() == 0) SharedInts()[0] = 0;
  Separate<kBetween>();
  atomicAdd(&SharedInts()[0], 1);
  __syncthreads();
  if (Thread() == 0) to[0] = SharedInts()[0];
}

// The last block to arrive adds up what all have written.
__global__ void LastBlockKernel(bool before, bool barrier, bool after, unsigned* ticket, int* parts,
                                int* to) {
  parts[blockIdx.x * blockDim.x + threadIdx.x] = 1;
  if (before) __threadfence();
  if (barrier) __syncthreads();
  if (Thread() == 0) {
    SharedInts()[0] = atomicAdd(ticket, 1u) == gridDim.x - 1;
    if (after) __threadfence();
  }
  __syncthreads();
  if (SharedInts()[0] == 0) return;
  int sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += parts[i * blockDim.x + (threadIdx.x + 1) % 64];
  to[Thread()] = sum;
}

// Four words of each of 32 threads. `early` reads them before the wait; `overwrites` changes what
// is copied while it is on its way, with barriers around.
__global__ void CopyKernel(bool barrier, bool early, bool overwrites, int* from, int* to) {
  gpu::CopyAsync16(SharedInts() + 4 * Thread(), from + 4 * Thread());
  gpu::CopyAsyncCommit();
  __syncthreads();
  if (early) to[Thread()] = SharedInts()[4 * (Thread() ^ 1)];
  if (overwrites) from[4 * (Thread() ^ 1)] = 1;
  __syncthreads();
  gpu::CopyAsyncWait<0>();
  if (barrier) __syncthreads();
  to[Thread()] = SharedInts()[4 * (Thread() ^ 1)];
}

// What a kernel that begins early does before it waits for the kernel before.
enum class Early { kNothing, kRead, kCopy, kWrite, kAdd, kShared };
__global__ void EarlyKernel(Early early, const int* from, int* to) {
  int* shared = SharedInts();
  int value = 0;
  if (early == Early::kRead) value = from[Thread()];
  if (early == Early::kCopy && Thread() < 16) gpu::CopyAsync16(shared + 4 * Thread(), from);
  if (early == Early::kWrite && Thread() == 40) to[500] = 1;
  if (early == Early::kAdd) atomicAdd(to + 500, 1);
  if (early == Early::kShared) shared[Thread()] = 1;
  gpu::AwaitPrevious();
  to[blockIdx.x * blockDim.x + threadIdx.x] = value + from[Thread()];
  gpu::CopyAsyncCommit();
  gpu::CopyAsyncWait<0>();
}
__global__ void WriteKernel(int* to) {
  gpu::AwaitPrevious();
  to[Thread()] = 1;
}
__global__ void AddKernel(int* to) {
  gpu::AwaitPrevious();
  atomicAdd(to + Thread(), 1);
}

class RacesTest : public testing::Test {
 protected:
  void SetUp() override {
    emulation::Reset();
    ASSERT_EQ(cudaMalloc(&to_, 4096), cudaSuccess);
    ASSERT_EQ(cudaMalloc(&more_, 4096), cudaSuccess);
    ASSERT_EQ(cudaMalloc(&ticket_, 4096), cudaSuccess);
  }
  void TearDown() override {
    for (void* memory :
         {static_cast<void*>(to_), static_cast<void*>(more_), static_cast<void*>(ticket_)}) {
      EXPECT_EQ(cudaFree(memory), cudaSuccess);
    }
  }
  template <class Kernel, class... A>
  void Run(int blocks, Kernel kernel, A... arguments) {
    ASSERT_EQ(cudaMemset(ticket_, 0, sizeof *ticket_), cudaSuccess);
    ASSERT_TRUE(gpu::Launch("Test", kernel, dim3(blocks), 64, 1024, nullptr, arguments...).ok());
    ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  }
  // In any order of threads and blocks.
  template <class... A>
  void Races(const char* how, A... arguments) {
    for (const uint64_t order : {0, 1, 7}) {
      emulation::SetThreadOrder(order);
      EXPECT_DEATH(Run(arguments...), how) << "thread order " << order;
    }
    emulation::SetThreadOrder(0);
  }
  template <class... A>
  void DoesNotRace(A... arguments) {
    for (const uint64_t order : {0, 1, 7}) {
      emulation::SetThreadOrder(order);
      Run(arguments...);
    }
    emulation::SetThreadOrder(0);
  }

  int *to_ = nullptr, *more_ = nullptr;
  unsigned* ticket_ = nullptr;
};

TEST_F(RacesTest, BarriersOrderABlock) {
  Races(
      "race: thread .* shared byte .* at .*races_test.* thread .* of block .0, 0, 0. .* at "
      ".*races_test.* with nothing between(.|\n)* races in a launch",
      1, ReadOfOtherKernel<Between::kNothing>, 32, to_);
  Races("reads shared", 1, ReadOfOtherKernel<Between::kWarpBarrier>, 32, to_);
  DoesNotRace(1, ReadOfOtherKernel<Between::kBarrier>, 32, to_);
}

TEST_F(RacesTest, WarpBarriersOrderAWarpAndShufflesDoNot) {
  Races("races? in a launch", 1, ReadOfOtherKernel<Between::kNothing>, 1, to_);
  Races("reads shared", 1, ReadOfOtherKernel<Between::kShuffle>, 1, to_);
  DoesNotRace(1, ReadOfOtherKernel<Between::kWarpBarrier>, 1, to_);
  DoesNotRace(1, ReadOfOtherKernel<Between::kBarrier>, 1, to_);
  DoesNotRace(1, ReadOfOtherKernel<Between::kNothing>, 0, to_);
}

TEST_F(RacesTest, StoresAfterLoads) {
  for (const int writer : {0, 20, 63}) {
    Races("races? in a launch", 1, OverwriteKernel<Between::kNothing>, writer, to_);
    Races("races? in a launch", 1, OverwriteKernel<Between::kWarpBarrier>, writer, to_);
    DoesNotRace(1, OverwriteKernel<Between::kBarrier>, writer, to_);
  }
  Races("writes shared byte 0 .*and others.* read at", 1, ReadOnBothSidesKernel, true, to_);
  DoesNotRace(1, ReadOnBothSidesKernel, false, to_);
}

TEST_F(RacesTest, AccessesOverlapByBytes) {
  Races("shared byte 1[24]", 1, OverlapKernel, false, to_);
  DoesNotRace(1, OverlapKernel, true, to_);
  DoesNotRace(3, NeighboursKernel, reinterpret_cast<__nv_bfloat16*>(to_));
}

// Blocks run on the same fibers, in the same shared memory, one after the other.
TEST_F(RacesTest, NothingOrdersBlocks) {
  for (const int thread : {0, 40}) {
    Races("thread .* writes global .* of block .* wrote at", 3, OneWordKernel, 1, thread, to_);
    DoesNotRace(3, OneWordKernel, 2, thread, to_);
  }
  Races("races? in a launch", 2, ReadByAnotherBlockKernel, 0u, to_);
  Races("races? in a launch", 2, ReadByAnotherBlockKernel, 1u, to_);
  DoesNotRace(1, ReadByAnotherBlockKernel, 0u, to_);
  DoesNotRace(3, SharedOfEachBlockKernel);
}

TEST_F(RacesTest, AtomicsRaceWithOtherAccessesOnly) {
  DoesNotRace(3, AtomicsKernel, to_);
  Races("change[sd] atomically", 1, AtomicsAndAReadKernel, to_);
  Races("change[sd] atomically", 1, CountKernel<Between::kNothing>, to_);
  DoesNotRace(1, CountKernel<Between::kBarrier>, to_);
}

TEST_F(RacesTest, FencesAroundAnAtomicOrderBlocks) {
  DoesNotRace(3, LastBlockKernel, true, true, true, ticket_, more_, to_);
  Races("reads global", 3, LastBlockKernel, false, true, true, ticket_, more_, to_);
  Races("reads global", 3, LastBlockKernel, true, false, true, ticket_, more_, to_);
  Races("reads global", 3, LastBlockKernel, true, true, false, ticket_, more_, to_);
}

TEST_F(RacesTest, CopiesAreUnderWayUntilTheWait) {
  DoesNotRace(1, CopyKernel, true, false, false, more_, to_);
  Races("races? in a launch", 1, CopyKernel, false, false, false, more_, to_);
  Races("writes shared .* at .*races_test.* read at", 1, CopyKernel, true, true, false, more_, to_);
  Races("reads global .* at .*races_test.* wrote at", 1, CopyKernel, true, false, true, more_, to_);
}

// The next launch, and who gets the memory next, may do as they like.
TEST_F(RacesTest, LaunchesAreOrdered) {
  for (int thread = 0; thread < 64; thread += 9) DoesNotRace(1, OneWordKernel, 0, thread, to_);
}

class OverlapTest : public RacesTest {
 protected:
  // first() on to_, and on other() so many kernels that overlap with it; then a kernel that reads
  // `read`, and overlaps.
  template <class Kernel>
  void Overlap(Kernel first, int between, Early early, const int* read) {
    const CudaStream stream(nullptr, true);
    ASSERT_TRUE(gpu::Launch("First", first, dim3(1), 64, 0, CudaStream(), to_).ok());
    for (int i = 0; i < between; ++i) {
      ASSERT_TRUE(gpu::Launch("Between", WriteKernel, dim3(1), 64, 0, stream, other()).ok());
    }
    ASSERT_TRUE(
        gpu::Launch("Early", EarlyKernel, dim3(2), 64, 1024, stream, early, read, more_).ok());
    ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  }
  int* other() const { return reinterpret_cast<int*>(ticket_); }
};

TEST_F(OverlapTest, BeforeTheWaitNothingIsReadThatMayBeWritten) {
  for (const int between : {0, 2}) {
    for (const Early early : {Early::kRead, Early::kCopy}) {
      EXPECT_DEATH(Overlap(WriteKernel, between, early, to_),
                   "reads global address .* at .*races_test.*, which the kernel before may still "
                   "write(.|\n)* races in a launch");
      EXPECT_DEATH(Overlap(AddKernel, between, early, to_), "may still write");
    }
  }
  for (const Early early : {Early::kNothing, Early::kRead, Early::kCopy, Early::kShared}) {
    Overlap(WriteKernel, 0, early, other() + 64);
    if (early != Early::kRead && early != Early::kCopy) {
      Overlap(WriteKernel, 0, early, to_);
    }
  }
}

TEST_F(OverlapTest, BeforeTheWaitNothingIsWritten) {
  EXPECT_DEATH(Overlap(WriteKernel, 0, Early::kWrite, to_),
               "thread 40 writes global address .* before it has waited for the kernel before");
  EXPECT_DEATH(Overlap(WriteKernel, 0, Early::kAdd, to_), "before it has waited");
}

// A kernel that began alone is the limit: what was written before it is there.
TEST_F(OverlapTest, WhatCameBeforeAKernelThatBeganAloneIsThere) {
  Overlap(WriteKernel, 1, Early::kNothing, to_);
  const CudaStream stream(nullptr, true);
  ASSERT_TRUE(gpu::Launch("Write", WriteKernel, dim3(1), 64, 0, CudaStream(), other()).ok());
  ASSERT_TRUE(gpu::Launch("Early", EarlyKernel, dim3(1), 64, 1024, stream, Early::kRead,
                          static_cast<const int*>(to_), more_)
                  .ok());
  ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
}

}  // namespace
}  // namespace packrat
