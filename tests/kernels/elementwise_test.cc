#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include "tests/kernels/random.h"

namespace packrat {
namespace {

// Below the smallest normal float32 a result has no relative precision.
constexpr double kTiny = 0x1p-126;

struct Sizes {
  int rows, n;
};

// Small and odd, and large enough that the threads share the rows.
std::vector<Sizes> SomeSizes(Random* random) {
  std::vector<Sizes> sizes = {{1, 1}, {1, 16}, {3, 17}, {70, 301}, {5, 4099}};
  for (int i = 0; i < 20; ++i) sizes.push_back({random->Int(1, 40), random->Int(1, 100)});
  return sizes;
}

// The sum of n squares in sixteen lanes takes n / 16 + 4 roundings and its root halves their
// weight; then a division, the mean, eps, a root, a reciprocal and two products.
void ExpectRmsNorm(const std::vector<float>& x, const Sizes& size, const std::vector<float>& weight,
                   float eps, const float* y) {
  const double tolerance = ((size.n / 16.0 + 4 + 2) / 2 + 2 + 2) * kUnit;
  for (int r = 0; r < size.rows; ++r) {
    double sum = 0;
    for (int i = 0; i < size.n; ++i) sum += std::pow(double{x[r * size.n + i]}, 2);
    for (int i = 0; i < size.n; ++i) {
      const double expected = x[r * size.n + i] / std::sqrt(sum / size.n + eps) * weight[i];
      ASSERT_NEAR(y[r * size.n + i], expected, tolerance * std::fabs(expected) + kTiny);
    }
  }
}

// Magnitudes whose squares' sum stays within float32, as the products of any layer do; below 1e-19
// squares vanish and eps alone divides.
TEST(RmsNormTest, MeetsTheReference) {
  Random random(1);
  for (const float scale : {1.0f, 1e-3f, 1e-15f, 1e-25f, 1e10f, 1e17f}) {
    for (const Sizes& size : SomeSizes(&random)) {
      const auto x = random.Normals(static_cast<size_t>(size.rows) * size.n, scale);
      const auto weight = random.Normals(size.n);
      const float eps = random.OneOf<float>({1e-6f, 1e-5f});
      SCOPED_TRACE(testing::Message() << size.rows << " rows of " << size.n << " at " << scale);
      ForEachCpu([&](int threads) {
        PoisonedContext context(threads, 0, 0);
        GuardedFloats y(x.size());
        RmsNorm(x.data(), size.rows, size.n, weight.data(), eps, y.data(), &context);
        ExpectRmsNorm(x, size, weight, eps, y.data());
        ASSERT_TRUE(y.GuardsIntact());
        GuardedFloats in_place(x.size());
        std::copy(x.begin(), x.end(), in_place.data());
        RmsNorm(in_place.data(), size.rows, size.n, weight.data(), eps, in_place.data(), &context);
        ASSERT_TRUE(SameBits(y.data(), in_place.data(), x.size()));
        ASSERT_TRUE(in_place.GuardsIntact());
      });
      if (HasFatalFailure()) return;
    }
  }
}

TEST(RmsNormTest, ZerosAndNaN) {
  ForEachCpu([&](int threads) {
    PoisonedContext context(threads, 0, 0);
    const std::vector<float> weight(21, 2.0f);
    std::vector<float> x(3 * 21, 0.0f);
    x[30] = kNaN;
    x[60] = 1.0f;
    GuardedFloats y(x.size());
    RmsNorm(x.data(), 3, 21, weight.data(), 1e-6f, y.data(), &context);
    for (int i = 0; i < 21; ++i) {
      EXPECT_EQ(y[i], 0.0f);
      EXPECT_TRUE(std::isnan(y[21 + i]));
      EXPECT_NEAR(y[42 + i], i == 18 ? 2 * std::sqrt(21.0) : 0.0, 1e-3);
    }
  });
}

// Where sigmoid and GELU are hard: saturated, huge, infinite, and dense around the edges of exp.
std::vector<float> Extremes() {
  std::vector<float> x = {0.0f, -0.0f, 1e-38f, -1e-38f, 1e-45f, 1e4f, -1e4f, 1e30f, -1e30f};
  for (float v = -200.0f; v <= 200.0f; v += 0.37f) x.push_back(v);
  for (float v = -7.0f; v <= 7.0f; v += 0.003f) x.push_back(v);
  for (float v = 80.0f; v <= 110.0f; v += 0.05f) x.insert(x.end(), {v, -v});
  for (float v = 100.0f; v < 1e9f; v *= 1.3f) x.insert(x.end(), {v, -v});
  return x;
}

// silu(x) = x / (1 + exp(-x)): exp is good to one unit in the last place (two of kUnit), of which
// the sum keeps no more; then sum, division and two products. exp overflows below -88.7, where the
// sigmoid is less than kTiny.
TEST(SwiGluTest, MeetsTheReference) {
  Random random(2);
  std::vector<Sizes> sizes = SomeSizes(&random);
  const std::vector<float> extremes = Extremes();
  sizes.push_back({1, static_cast<int>(extremes.size())});
  for (const Sizes& size : sizes) {
    const auto n = static_cast<size_t>(size.rows) * size.n;
    const auto gate = n == extremes.size() ? extremes : random.Normals(n, 3.0f);
    const auto up = random.Normals(n);
    ForEachCpu([&](int threads) {
      PoisonedContext context(threads, 0, 0);
      GuardedFloats y(n);
      std::copy(gate.begin(), gate.end(), y.data());
      SwiGlu(y.data(), up.data(), size.rows, size.n, &context);
      for (size_t i = 0; i < n; ++i) {
        const double g = gate[i], expected = g / (1 + std::exp(-g)) * up[i];
        ASSERT_NEAR(y[i], expected,
                    6 * kUnit * std::fabs(expected) + kTiny * (1 + std::fabs(g * up[i])))
            << "silu of " << g;
      }
      ASSERT_TRUE(y.GuardsIntact());
    });
    if (HasFatalFailure()) return;
  }
}

TEST(SwiGluTest, InfinitiesAndNaN) {
  ForEachCpu([&](int threads) {
    PoisonedContext context(threads, 0, 0);
    float gate[] = {kInfinity, -kInfinity, kNaN, 1.0f, 1.0f};
    const float up[] = {1.0f, 1.0f, 1.0f, kNaN, kInfinity};
    SwiGlu(gate, up, 1, 5, &context);
    EXPECT_EQ(gate[0], kInfinity);
    // The limit is zero; 0 * infinity is as good, since both say that something overflowed or that
    // nothing is left. A large number would be neither.
    EXPECT_TRUE(gate[1] == 0.0f || std::isnan(gate[1])) << gate[1];
    EXPECT_TRUE(std::isnan(gate[2]));
    EXPECT_TRUE(std::isnan(gate[3]));
    EXPECT_EQ(gate[4], kInfinity);
  });
}

// x (1 + erf) / 2 with erf good to two units in its last place (four of kUnit), one rounding of the
// sum and of each product. The sum's error counts against 1 + |erf|: for negative x it is absolute.
// From |x| = 5.7 on erf is 1 in float32, and nothing may be left of the difference however large x.
TEST(GeluTest, MeetsTheReference) {
  Random random(3);
  std::vector<Sizes> sizes = SomeSizes(&random);
  const std::vector<float> extremes = Extremes();
  sizes.push_back({1, static_cast<int>(extremes.size())});
  for (const Sizes& size : sizes) {
    const auto n = static_cast<size_t>(size.rows) * size.n;
    const auto x = n == extremes.size() ? extremes : random.Normals(n, 3.0f);
    ForEachCpu([&](int threads) {
      PoisonedContext context(threads, 0, 0);
      GuardedFloats y(n);
      std::copy(x.begin(), x.end(), y.data());
      Gelu(y.data(), size.rows, size.n, &context);
      for (size_t i = 0; i < n; ++i) {
        const double v = x[i], erf = std::erf(v / std::sqrt(2.0)), expected = v * (1 + erf) / 2;
        const double sum_error = 4 * std::fabs(erf) + (1 + erf);
        const double tolerance = std::fabs(v) / 2 * sum_error + 2 * std::fabs(expected);
        ASSERT_NEAR(y[i], expected, kUnit * tolerance + kTiny) << "gelu of " << v;
        if (std::fabs(v) >= 5.7) {
          ASSERT_EQ(y[i], v > 0 ? x[i] : 0.0f) << "gelu of " << v;
        }
      }
      ASSERT_TRUE(y.GuardsIntact());
    });
    if (HasFatalFailure()) return;
  }
}

TEST(GeluTest, InfinitiesAndNaN) {
  ForEachCpu([&](int threads) {
    PoisonedContext context(threads, 0, 0);
    float x[] = {kInfinity, -kInfinity, kNaN, 1.0f};
    Gelu(x, 1, 4, &context);
    EXPECT_EQ(x[0], kInfinity);
    EXPECT_TRUE(x[1] == 0.0f || std::isnan(x[1])) << x[1];
    EXPECT_TRUE(std::isnan(x[2]));
    EXPECT_NEAR(x[3], 0.8413447, 1e-6);
  });
}

TEST(AllFiniteTest, FindsOneAtEveryPosition) {
  Random random(4);
  ForEachCpu([&](int) {
    for (size_t n = 0; n <= 67; ++n) {
      // Exactly n values, so that a read beyond is seen by the sanitizers.
      auto x = random.Normals(n, 1e38f);
      for (float& v : x) v = std::isfinite(v) ? v : 3e38f;
      ASSERT_TRUE(AllFinite(x.data(), n));
      for (size_t i = 0; i < n; ++i) {
        for (const float bad : {kNaN, -kNaN, kInfinity, -kInfinity}) {
          const float kept = std::exchange(x[i], bad);
          ASSERT_FALSE(AllFinite(x.data(), n)) << bad << " at " << i << " of " << n;
          x[i] = kept;
        }
      }
    }
    GuardedFloats guarded(33);
    std::fill_n(guarded.data(), 33, 1.0f);
    EXPECT_TRUE(AllFinite(guarded.data(), 33)) << "looked beyond the end";
  });
}

}  // namespace
}  // namespace packrat
