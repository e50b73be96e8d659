// What the emulated runtime must show for the tests on it to mean something.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <vector>

#include "kernels/device.cuh"
#include "tests/emulation/emulation.h"

namespace packrat {
namespace {

__global__ void CopyKernel(const float* from, float* to) { *to = *from; }

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

}  // namespace
}  // namespace packrat
