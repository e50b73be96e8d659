// In which order products add up: to the bit, as kernels/matmul.h states it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/matmul.h"
#include "kernels/quantized.h"
#include "tests/kernels/random.h"
#include "tests/kernels/reference.h"

namespace packrat {
namespace {

// One of any size: within some powers of two of 1, or of the smallest or the largest.
float Wild(Random* random) {
  const int exponent = random->OneOf<int>({-130, 0, 120}) + random->Int(-4, 6);
  return std::ldexp(random->Normal(), exponent);
}

// The instruction as kernels/matmul_bf16.cc states it, on a scalar.
float Flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }
float AddPair(float sum, const float* x, const float* w) {
  for (const int k : {1, 0}) sum = Flushed(std::fma(Flushed(x[k]), Flushed(w[k]), sum));
  return sum;
}

TEST(MatMulOrderTest, BFloat16PairsAreAddedInTheStatedOrder) {
  if (!CpuHasBFloat16()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  ASSERT_TRUE(SetCpuTarget("avx512").ok());  // matmul_tiles_test has the order of amx.
  Random random(6);
  for (int i = 0; i < 300; ++i) {
    const int rows = random.Int(1, 30), in = random.Int(1, 70), out = random.Int(1, 100);
    std::vector<uint16_t> weights(static_cast<size_t>(out) * in);
    for (uint16_t& w : weights) {
      const float value = Wild(&random);
      std::memcpy(&w, reinterpret_cast<const char*>(&value) + 2, 2);
    }
    const PackedMatrix weight(weights.data(), DType::kBF16, Arithmetic::kBFloat16, out, in);
    std::vector<float> x(static_cast<size_t>(rows) * in);
    for (float& value : x) value = Wild(&random);
    PoisonedContext context(3, x.size() + rows, 0);
    GuardedFloats y(static_cast<size_t>(rows) * out);
    MatMul(x.data(), in, rows, {{&weight, y.data(), out}}, &context);
    for (int r = 0; r < rows; ++r) {
      std::vector<float> left(in + 1, 0.0f), right(in + 1);  // Padded to whole pairs.
      for (int k = 0; k < in; ++k) left[k] = Storage{true}(Flushed(x[r * in + k]));
      for (int o = 0; o < out; ++o) {
        std::fill(right.begin(), right.end(), 0.0f);
        weight.CopyRow(o, right.data());
        float sum = 0;
        for (int k = 0; k < in; k += 2) sum = AddPair(sum, &left[k], &right[k]);
        const float is = y[static_cast<size_t>(r) * out + o];
        ASSERT_TRUE(std::isnan(sum) ? std::isnan(is) : SameBits(&is, &sum, 1))
            << is << " for " << sum << ", row " << r << " output " << o << " in " << in;
      }
    }
    EXPECT_TRUE(y.GuardsIntact());
  }
  ASSERT_TRUE(SetCpuTarget("auto").ok());
}

// Row `o` of the weight times x (in), as kernels/matmul.h states it.
float InChains(const std::vector<float>& x, const PackedMatrix& weight, int o) {
  std::vector<float> w(x.size());
  weight.CopyRow(o, w.data());
  float sum = 0;
  for (size_t begin = 0; begin < x.size(); begin += 64) {
    float chain = 0;
    for (size_t k = begin; k < std::min(begin + 64, x.size()); ++k) {
      chain = std::fma(x[k], w[k], chain);
    }
    sum = begin == 0 ? chain : sum + chain;
  }
  return sum;
}

TEST(MatMulOrderTest, Float32ProductsAreAddedInTheStatedOrder) {
  if (CpuTargetName() == "sse4") GTEST_SKIP() << "sse4 rounds every product";
  Random random(7);
  for (int i = 0; i < 60; ++i) {
    const int rows = random.Int(1, 20), groups = random.Int(1, 26), out = random.Int(1, 70);
    const auto type =
        random.OneOf<DType>({DType::kF32, DType::kBF16, DType::kF16, DType::kInt8, DType::kInt4});
    const int in = IsQuantized(type) ? groups * kQuantGroup : random.Int(1, 800);
    PackedMatrix weight(type, Arithmetic::kFloat32, out, in);
    if (IsQuantized(type)) {
      for (int o = 0; o < out; ++o) {
        for (int g = 0; g < groups; ++g) {
          QuantGroup group;
          ASSERT_TRUE(QuantizeGroup(random.Normals(kQuantGroup).data(), type, &group).ok());
          weight.SetGroup(o, g, group);
        }
      }
    } else {
      std::vector<char> storage;
      const size_t size = static_cast<size_t>(out) * in;
      weight.SetRows(0, out, RandomWeights(&random, type, size, &storage));
    }
    const std::vector<float> x = random.Normals(static_cast<size_t>(rows) * in);
    PoisonedContext context(3, x.size(), 0);
    GuardedFloats y(static_cast<size_t>(rows) * out);
    MatMul(x.data(), in, rows, {{&weight, y.data(), out}}, &context);
    for (int r = 0; r < rows; ++r) {
      const std::vector<float> row(x.begin() + r * in, x.begin() + (r + 1) * in);
      for (int o = 0; o < out; ++o) {
        const float is = y[r * out + o], sum = InChains(row, weight, o);
        ASSERT_TRUE(SameBits(&is, &sum, 1)) << is << " for " << sum << ", row " << r << " output "
                                            << o << " in " << in << " " << DTypeName(type);
      }
    }
    EXPECT_TRUE(y.GuardsIntact());
  }
}

}  // namespace
}  // namespace packrat
