// The device that a kernel's test runs on. One source is compiled three times: for the CPU, against
// the emulation of tests/emulation, and against CUDA, where it skips without a device. What differs
// between them is here: `ops` is the namespace of the operations, DeviceArray their memory, Scratch
// what they need beside their operands, KernelTest the loops over what a device offers.
#ifndef PACKRAT_TESTS_KERNELS_DEVICE_H_
#define PACKRAT_TESTS_KERNELS_DEVICE_H_

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kernels/attend_plan.h"
#include "kernels/batch.h"
#include "kernels/dtype.h"
#include "tests/kernels/random.h"
#include "tests/kernels/reference.h"

#ifdef PACKRAT_GPU
#include "tests/gpu/gpu.h"
#elif defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

// Scratch has a size in bytes on a GPU, and one in floats per thread on the CPU; only the device's
// own is looked at.
#ifdef PACKRAT_GPU
#define PACKRAT_SCRATCH(gpu_bytes, cpu_floats) (gpu_bytes)
#else
#define PACKRAT_SCRATCH(gpu_bytes, cpu_floats) (cpu_floats)
#endif

// A list of work for a step, which a GPU alone goes by; see KernelTest::Run().
#ifdef PACKRAT_GPU
#define PACKRAT_WORK(step, kind) ((step).Plan(kind))
#else
#define PACKRAT_WORK(step, kind) (NoWork())
#endif

namespace packrat {

// Values of an activations' type.
template <class T>
struct Stored;
template <>
struct Stored<float> {
  static constexpr DType kType = DType::kF32;
  static constexpr double kRounding = 0;  // Beside that of float32.
  static std::vector<float> From(const std::vector<float>& values) { return values; }
  static std::vector<float> Floats(const std::vector<float>& values) { return values; }
};

#ifdef PACKRAT_GPU

namespace ops = gpu;
inline constexpr bool kOnCpu = false;
// Of a dot product over a head: a chain of eight channels and a tree over at most 32 slices.
inline constexpr double kDotRoundings = 8 + 5;

template <>
struct Stored<__nv_bfloat16> {
  static constexpr DType kType = DType::kBF16;
  static constexpr double kRounding = 0x1p-8;  // Eight bits of significand, the first implied.
  static std::vector<__nv_bfloat16> From(const std::vector<float>& values) {
    return ToBFloat16(values);
  }
  static std::vector<float> Floats(const std::vector<__nv_bfloat16>& values) {
    return ToFloats(values);
  }
};
using ActivationTypes = testing::Types<float, __nv_bfloat16>;

// Memory that launches need, of exactly the size for some bounds.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : memory_(bytes) {}  // NaN.
  Scratch& Zero() {
    memory_.Set(std::vector<unsigned char>(memory_.size(), 0));
    return *this;
  }
  void* data() const { return memory_.data(); }
  void ExpectGuardsIntact() const { memory_.Get(); }

 private:
  DeviceArray<unsigned char> memory_;
};

class KernelTest : public GpuTest {
 protected:
  // body() on every processor that there is to be tested; bits may differ between them.
  template <class Body>
  void ForEachDevice(const Body& body) {
    body();
  }
  // Runs op(scratch, stream), the end of an operation's arguments, and waits for it.
  template <class Op>
  absl::Status Run(const Scratch& scratch, const Op& op) {
    const absl::Status status = op(scratch.data(), stream_);
    Wait();
    return status;
  }
  // The same with a list of work before the scratch.
  template <class Op>
  absl::Status Run(const Scratch& scratch, const DeviceArray<gpu::AttendItem>& work, const Op& op) {
    const absl::Status status = op(work.data(), scratch.data(), stream_);
    Wait();
    return status;
  }
  // The same without scratch.
  template <class Op>
  absl::Status Run(const Op& op) {
    const absl::Status status = op(stream_);
    Wait();
    return status;
  }
};

#else

namespace ops = packrat;
inline constexpr bool kOnCpu = true;
inline constexpr double kDotRoundings = 0;
using ActivationTypes = testing::Types<float>;

// bfloat16 as bits, of which the CPU has pages.
template <>
struct Stored<uint16_t> {
  static std::vector<uint16_t> From(const std::vector<float>& values) {
    std::vector<uint16_t> bits;
    for (const float x : values) {
      const float rounded = Storage{true}(x);
      uint32_t wide;
      std::memcpy(&wide, &rounded, sizeof wide);
      bits.push_back(static_cast<uint16_t>(wide >> 16));
    }
    return bits;
  }
  static std::vector<float> Floats(const std::vector<uint16_t>& bits) {
    std::vector<float> values;
    for (size_t i = 0; i < bits.size(); ++i) {
      values.push_back(LoadAsFloat(bits.data(), i, DType::kBF16));
    }
    return values;
  }
};

// n elements between two zones that nobody may touch; all bytes are 0xFF, a NaN in every type,
// until written.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t n) : n_(n), memory_((n + 2 * kGuard) * sizeof(T), 0xFF) {
    Forbid(memory_.data(), kGuard * sizeof(T));
    Forbid(data() + n_, kGuard * sizeof(T));
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { Set(values); }
  ~DeviceArray() { Allow(); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const {
    return reinterpret_cast<T*>(const_cast<unsigned char*>(memory_.data())) + kGuard;
  }
  size_t size() const { return n_; }
  void Set(const std::vector<T>& values) {
    EXPECT_EQ(values.size(), n_);
    std::copy(values.begin(), values.end(), data());
  }
  // Checks the zones.
  std::vector<T> Get() const {
    Allow();
    const std::vector<unsigned char> zone(kGuard * sizeof(T), 0xFF);
    EXPECT_EQ(std::memcmp(memory_.data(), zone.data(), zone.size()), 0)
        << "written before the array";
    EXPECT_EQ(std::memcmp(data() + n_, zone.data(), zone.size()), 0) << "written beyond the array";
    Forbid(memory_.data(), kGuard * sizeof(T));
    Forbid(data() + n_, kGuard * sizeof(T));
    return std::vector<T>(data(), data() + n_);
  }

 private:
  static constexpr size_t kGuard = 256;
  // Under the sanitizer not even read.
  static void Forbid([[maybe_unused]] const void* p, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    ASAN_POISON_MEMORY_REGION(p, bytes);
#endif
  }
  void Allow() const {
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(memory_.data(), memory_.size());
#endif
  }
  size_t n_;
  std::vector<unsigned char> memory_;
};

// Floats for each thread, and those of KernelContext::packed, all of them NaN before the first use.
class Scratch {
 public:
  explicit Scratch(size_t floats, size_t packed = 0) : floats_(floats), packed_(packed) {}
  Scratch& Zero() { return *this; }
  KernelContext* context(int threads) const {
    if (context_ == nullptr) {
      context_ = std::make_unique<PoisonedContext>(threads, packed_, floats_);
    }
    return context_.get();
  }
  void ExpectGuardsIntact() const {}

 private:
  size_t floats_, packed_;
  mutable std::unique_ptr<PoisonedContext> context_;
};

struct NoWork {};

class KernelTest : public testing::Test {
 protected:
  // body() on every instruction set of this machine, with one thread and with three.
  template <class Body>
  void ForEachDevice(const Body& body) {
    ForEachCpu([&](int threads) {
      threads_ = threads;
      none_ = Scratch(0);
      body();
    });
  }
  // Threads that take turns are a GPU's.
  template <class Body>
  void ForEachOrder(const Body& body) {
    body();
  }
  // Runs op(context), the end of an operation's arguments.
  template <class Op>
  absl::Status Run(const Scratch& scratch, const Op& op) {
    return op(scratch.context(threads_));
  }
  template <class Op>
  absl::Status Run(const Scratch& scratch, NoWork, const Op& op) {
    return Run(scratch, op);
  }
  template <class Op>
  absl::Status Run(const Op& op) {
    return Run(none_, op);
  }

 private:
  int threads_ = 1;
  Scratch none_{0};  // Its threads are made once.
};

#endif

// Floats stored as a type that is known when the test runs.
class TypedArray {
 public:
  TypedArray(size_t n, DType type)
      : type_(type), floats_(type == DType::kF32 ? n : 0), halves_(type == DType::kF32 ? 0 : n) {}
  TypedArray(const std::vector<float>& values, DType type) : TypedArray(values.size(), type) {
    if (type == DType::kF32) {
      floats_.Set(values);
      return;
    }
    std::vector<uint16_t> halves;
    for (const float x : values) {
      const float rounded = Storage{true}(x);
      uint32_t bits;
      std::memcpy(&bits, &rounded, sizeof bits);
      halves.push_back(static_cast<uint16_t>(bits >> 16));
    }
    halves_.Set(halves);
  }
  std::byte* data() const {
    return type_ == DType::kF32 ? reinterpret_cast<std::byte*>(floats_.data())
                                : reinterpret_cast<std::byte*>(halves_.data());
  }
  const std::byte* at(size_t i) const { return data() + i * DTypeBytes(type_); }
  std::vector<float> Get() const {
    if (type_ == DType::kF32) return floats_.Get();
    const std::vector<uint16_t> halves = halves_.Get();
    std::vector<float> values;
    for (size_t i = 0; i < halves.size(); ++i) {
      values.push_back(LoadAsFloat(halves.data(), i, DType::kBF16));
    }
    return values;
  }

 private:
  DType type_;
  DeviceArray<float> floats_;
  DeviceArray<uint16_t> halves_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_DEVICE_H_
