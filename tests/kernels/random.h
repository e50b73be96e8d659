// What the kernels' tests share: random operands, memory in which every stray access shows, and the
// loop over what this machine offers.
//
// Tolerances are written in units of kUnit, the largest relative error of one float32 rounding,
// times a count of roundings that each test derives from its sizes.
#ifndef PACKRAT_TESTS_KERNELS_RANDOM_H_
#define PACKRAT_TESTS_KERNELS_RANDOM_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/context.h"
#include "kernels/cpu_target.h"
#include "kernels/dtype.h"

namespace packrat {

inline constexpr double kUnit = 0x1p-24;
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  // Both ends included.
  int Int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }
  float Normal() { return normal_(engine_); }
  std::vector<float> Normals(size_t n, float scale = 1.0f, float shift = 0.0f) {
    std::vector<float> values(n);
    for (float& value : values) value = Normal() * scale + shift;
    return values;
  }
  template <class T>
  T OneOf(const std::vector<T>& choices) {
    return choices[static_cast<size_t>(Int(0, static_cast<int>(choices.size()) - 1))];
  }
  template <class T>
  void Shuffle(std::vector<T>* values) {
    std::shuffle(values->begin(), values->end(), engine_);
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_;
};

inline bool SameBits(const float* a, const float* b, size_t n) {
  return std::memcmp(a, b, n * sizeof(float)) == 0;
}
inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && SameBits(a.data(), b.data(), a.size());
}

// n NaNs between two zones of NaNs. What nobody wrote keeps the bits of a NaN that no computation
// makes.
class GuardedFloats {
 public:
  explicit GuardedFloats(size_t n) : n_(n), memory_(n + 2 * kGuard, Unwritten()) {}

  float* data() { return memory_.data() + kGuard; }
  const float* data() const { return memory_.data() + kGuard; }
  size_t size() const { return n_; }
  float& operator[](size_t i) { return data()[i]; }

  // Were elements [begin, end) left alone? `begin` and `end` may reach kGuard beyond the ends.
  bool Unwritten(ptrdiff_t begin, ptrdiff_t end) const {
    const float poison = Unwritten();
    for (ptrdiff_t i = begin; i < end; ++i) {
      if (std::memcmp(data() + i, &poison, sizeof poison) != 0) return false;
    }
    return true;
  }
  bool GuardsIntact() const {
    const auto n = static_cast<ptrdiff_t>(n_);
    return Unwritten(-kGuard, 0) && Unwritten(n, n + kGuard);
  }
  void Poison() { std::fill(memory_.begin(), memory_.end(), Unwritten()); }

  static float Unwritten() {
    const uint32_t bits = 0x7fc5a5a5u;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

 private:
  static constexpr ptrdiff_t kGuard = 64;
  size_t n_;
  std::vector<float> memory_;
};

// A context whose scratch and packed memory hold NaN.
struct PoisonedContext : KernelContext {
  PoisonedContext(int threads, size_t packed_floats, size_t scratch_floats)
      : KernelContext(threads, packed_floats, scratch_floats) {
    std::fill_n(packed.data(), packed_floats, kNaN);
    for (int worker = 0; worker < pool.size(); ++worker) {
      std::fill_n(scratch(worker), scratch_floats, kNaN);
    }
  }
};

// body(threads) on every instruction set of this machine, with one thread and with three.
template <class Body>
void ForEachCpu(const Body& body) {
  for (const std::string& target : SupportedCpuTargets()) {
    ASSERT_TRUE(SetCpuTarget(target).ok());
    for (const int threads : {1, 3}) {
      SCOPED_TRACE(target + ", " + std::to_string(threads) + " threads");
      body(threads);
    }
  }
  ASSERT_TRUE(SetCpuTarget("auto").ok());
}

// n weights in their stored type, starting at an odd address of `storage`; about unit size, among
// the halves also subnormals.
inline const void* RandomWeights(Random* random, DType type, size_t n, std::vector<char>* storage) {
  storage->assign(n * DTypeBytes(type) + 1, 0);
  char* to = storage->data() + 1;
  for (size_t i = 0; i < n; ++i) {
    const float value = random->Normal();
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (type == DType::kBF16) bits >>= 16;
    if (type == DType::kF16) {
      const int exponent = random->Int(0, 7) == 0 ? 0 : random->Int(11, 15);
      bits = static_cast<uint32_t>(random->Int(0, 1) << 15 | exponent << 10 | random->Int(0, 1023));
    }
    std::memcpy(to + i * DTypeBytes(type), &bits, DTypeBytes(type));
  }
  return to;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_RANDOM_H_
