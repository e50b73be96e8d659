// What the tests of GPU code share. Each is compiled twice from one source: against the emulation
// of tests/emulation, which runs everywhere, and against CUDA, where it skips without a device.
#ifndef PACKRAT_TESTS_GPU_GPU_H_
#define PACKRAT_TESTS_GPU_GPU_H_

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kernels/gpu.h"
#ifdef PACKRAT_EMULATED
#include "tests/emulation/emulation.h"
#endif

namespace packrat {

#define EXPECT_CUDA_OK(call) EXPECT_EQ(call, cudaSuccess)

// Skips where there is no device, and gives every test a stream.
class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
#ifdef PACKRAT_EMULATED
    emulation::Reset();
#endif
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
      GTEST_SKIP() << "no CUDA device";
    }
    EXPECT_CUDA_OK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  void TearDown() override {
    if (stream_ == nullptr) return;
    EXPECT_CUDA_OK(cudaStreamDestroy(stream_));
  }
  void Wait() { EXPECT_CUDA_OK(cudaStreamSynchronize(stream_)); }

  // body() with the threads of a block taking turns forwards, backwards and at random: what depends
  // on it is a race. On a device, and with the detector, which sees races in any order, once.
  template <class Body>
  void ForEachOrder(const Body& body) {
#if defined(PACKRAT_EMULATED) && !defined(PACKRAT_RACES)
    for (const uint64_t order : {0, 1, 7}) {
      SCOPED_TRACE(testing::Message() << "thread order " << order);
      emulation::SetThreadOrder(order);
      body();
    }
    emulation::SetThreadOrder(0);
#else
    body();
#endif
  }

  cudaStream_t stream_ = nullptr;
};

// n elements of device memory between two zones that nobody may write; all bytes are 0xFF, a NaN in
// every type, until written.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t n) : n_(n) {
    EXPECT_CUDA_OK(cudaMalloc(&memory_, bytes()));
    EXPECT_CUDA_OK(cudaMemset(memory_, 0xFF, bytes()));
    EXPECT_CUDA_OK(cudaStreamSynchronize(nullptr));  // The tests' stream would not wait for it.
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { Set(values); }
  ~DeviceArray() { cudaFree(memory_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return memory_ + kGuard; }
  size_t size() const { return n_; }
  void Set(const std::vector<T>& values) {
    EXPECT_EQ(values.size(), n_);
    EXPECT_CUDA_OK(cudaMemcpy(data(), values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice));
    // From pageable memory it returns when the values are staged; kernels on the tests' stream do
    // not wait for the rest of the way.
    EXPECT_CUDA_OK(cudaStreamSynchronize(nullptr));
  }
  // After the work that writes it is done; checks the zones.
  std::vector<T> Get() const {
    std::vector<T> all(n_ + 2 * kGuard);
    EXPECT_CUDA_OK(cudaMemcpy(all.data(), memory_, bytes(), cudaMemcpyDeviceToHost));
    std::vector<unsigned char> zone(kGuard * sizeof(T), 0xFF);
    EXPECT_EQ(std::memcmp(all.data(), zone.data(), zone.size()), 0) << "written before the array";
    EXPECT_EQ(std::memcmp(all.data() + kGuard + n_, zone.data(), zone.size()), 0)
        << "written beyond the array";
    return std::vector<T>(all.begin() + kGuard, all.end() - kGuard);
  }

 private:
  static constexpr size_t kGuard = 256;  // Keeps the alignment of cudaMalloc().
  size_t bytes() const { return (n_ + 2 * kGuard) * sizeof(T); }
  size_t n_;
  T* memory_ = nullptr;
};

inline std::vector<float> ToFloats(const std::vector<__nv_bfloat16>& values) {
  std::vector<float> floats;
  for (const __nv_bfloat16 value : values) floats.push_back(__bfloat162float(value));
  return floats;
}
inline std::vector<__nv_bfloat16> ToBFloat16(const std::vector<float>& values) {
  std::vector<__nv_bfloat16> halves;
  for (const float value : values) halves.push_back(__float2bfloat16(value));
  return halves;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_GPU_GPU_H_
