// The functions that are applied to every value by itself: gates, activations, the cap of logits.
#include <algorithm>

#include "kernels/elementwise.h"
#include "tests/kernels/rows.h"

namespace packrat {
namespace {

template <class T>
using FunctionsTest = RowsTest<T>;
TYPED_TEST_SUITE(FunctionsTest, ActivationTypes);

// Where sigmoid and GELU are hard: saturated, huge, and dense around the edges of exp.
std::vector<float> Extremes() {
  std::vector<float> x = {0.0f, -0.0f, 1e-38f, -1e-38f, 1e-45f, 1e4f, -1e4f, 1e30f, -1e30f};
  for (float v = -200.0f; v <= 200.0f; v += 0.37f) x.push_back(v);
  for (float v = -7.0f; v <= 7.0f; v += 0.003f) x.push_back(v);
  for (float v = 80.0f; v <= 110.0f; v += 0.05f) x.insert(x.end(), {v, -v});
  for (float v = 100.0f; v < 1e9f; v *= 1.3f) x.insert(x.end(), {v, -v});
  return x;
}

std::vector<Sizes> SizesWithExtremes() {
  std::vector<Sizes> sizes = SomeSizes();
  sizes.push_back({2, static_cast<int>(Extremes().size())});  // The second row is them.
  return sizes;
}

// silu(x) = x / (1 + exp(-x)): exp is good to a unit in the last place on the CPU and to two on a
// GPU (two and four of kUnit), of which the sum keeps no more; then sum, division and two products.
// exp overflows below -88.7, where the sigmoid is less than kTiny.
TYPED_TEST(FunctionsTest, GluOfSiluMeetsTheReference) {
  using S = Stored<TypeParam>;
  Random random(3);
  const std::vector<float> extremes = Extremes();
  for (const Sizes size : SizesWithExtremes()) {
    const int rows = size.rows, n = size.n;
    const float scale = rows == 1 ? 0.7f : 1.0f;
    auto in = random.Normals(static_cast<size_t>(rows) * 2 * n, 3.0f);
    if (n == static_cast<int>(extremes.size())) {
      std::copy(extremes.begin(), extremes.end(), in.begin() + 2 * n);
    }
    in = this->Rounded(in);
    DeviceArray<TypeParam> gate_up(S::From(in)), y(static_cast<size_t>(rows) * n);
    this->ForEachDevice([&] {
      ASSERT_TRUE(this->Run([&](auto device) {
                        return ops::Glu({GateFunction::kSilu, scale}, gate_up.data(), rows, n,
                                        y.data(), S::kType, device);
                      })
                      .ok());
      const std::vector<float> out = S::Floats(y.Get());
      for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < n; ++i) {
          const double gate = scale * in[r * 2 * n + i], up = in[r * 2 * n + n + i];
          const double expected = gate / (1 + std::exp(-gate)) * up;
          ASSERT_NEAR(out[r * n + i], expected,
                      ((kOnCpu ? 6 : 8) * kUnit + S::kRounding) * std::fabs(expected) +
                          kTiny * (1 + std::fabs(gate * up)))
              << "silu of " << gate;
        }
      }
    });
    if (this->HasFatalFailure()) return;
  }
}

// As above for x sigmoid(2 u), 2 u = x (a + b x^2), whose argument takes four roundings and two
// constants: they count as often as the argument is large, up to where exp ends.
TYPED_TEST(FunctionsTest, GluOfGeluByTanhMeetsTheReference) {
  using S = Stored<TypeParam>;
  Random random(9);
  const std::vector<float> extremes = Extremes();
  for (const Sizes size : SizesWithExtremes()) {
    const int rows = size.rows, n = size.n;
    auto in = random.Normals(static_cast<size_t>(rows) * 2 * n, 3.0f);
    if (n == static_cast<int>(extremes.size())) {
      std::copy(extremes.begin(), extremes.end(), in.begin() + 2 * n);
    }
    in = this->Rounded(in);
    DeviceArray<TypeParam> gate_up(S::From(in)), y(static_cast<size_t>(rows) * n);
    this->ForEachDevice([&] {
      ASSERT_TRUE(this->Run([&](auto device) {
                        return ops::Glu({GateFunction::kGeluTanh, 1.0f}, gate_up.data(), rows, n,
                                        y.data(), S::kType, device);
                      })
                      .ok());
      const std::vector<float> out = S::Floats(y.Get());
      for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < n; ++i) {
          const double gate = in[r * 2 * n + i], up = in[r * 2 * n + n + i];
          const double two_u = 2 * std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate);
          const double expected = gate / (1 + std::exp(-two_u)) * up;
          const double argument = two_u < 0 ? std::min(-two_u, 104.0) * 6 : 0;
          ASSERT_NEAR(out[r * n + i], expected,
                      (((kOnCpu ? 6 : 8) + argument) * kUnit + S::kRounding) * std::fabs(expected) +
                          kTiny * (1 + std::fabs(gate * up)))
              << "gelu of " << gate;
        }
      }
    });
    if (this->HasFatalFailure()) return;
  }
}

TYPED_TEST(FunctionsTest, SquaredReluMeetsTheReference) {
  using S = Stored<TypeParam>;
  Random random(10);
  for (const Sizes size : SomeSizes()) {
    const int rows = size.rows, n = size.n;
    const auto in = this->Rounded(random.Normals(static_cast<size_t>(rows) * n, 3.0f));
    this->ForEachDevice([&] {
      DeviceArray<TypeParam> x(S::From(in));
      ASSERT_TRUE(this->Run([&](auto device) {
                        return ops::SquaredRelu(x.data(), rows, n, S::kType, device);
                      })
                      .ok());
      const std::vector<float> out = S::Floats(x.Get());
      for (size_t i = 0; i < out.size(); ++i) {
        const double expected = in[i] > 0 ? double{in[i]} * in[i] : 0.0;
        ASSERT_NEAR(out[i], expected, (kUnit + S::kRounding) * expected);
      }
    });
    if (this->HasFatalFailure()) return;
  }
  this->ForEachDevice([&] {
    DeviceArray<TypeParam> x(S::From({kNaN, kInfinity, -kInfinity}));
    ASSERT_TRUE(
        this->Run([&](auto device) { return ops::SquaredRelu(x.data(), 1, 3, S::kType, device); })
            .ok());
    const std::vector<float> out = S::Floats(x.Get());
    EXPECT_TRUE(std::isnan(out[0]));
    EXPECT_EQ(out[1], kInfinity);
    EXPECT_EQ(out[2], 0.0f);
  });
}

// A division, tanh good to three units in its last place (six of kUnit, on a GPU as well), a
// product; the division's rounding moves tanh by at most its own.
TEST_F(KernelTest, SoftCapMeetsTheReference) {
  Random random(11);
  std::vector<float> in = Extremes();
  for (int i = 0; i < 3000; ++i) in.push_back(random.Normal() * 20.0f);
  for (const float cap : {30.0f, 0.9f}) {
    ForEachDevice([&] {
      DeviceArray<float> x(in);
      ASSERT_TRUE(Run([&](auto device) {
                    return ops::SoftCap(cap, 1, static_cast<int>(in.size()), x.data(), device);
                  }).ok());
      const std::vector<float> out = x.Get();
      for (size_t i = 0; i < in.size(); ++i) {
        const double expected = cap * std::tanh(double{in[i]} / cap);
        ASSERT_NEAR(out[i], expected, 8 * kUnit * std::fabs(expected) + kTiny) << in[i];
      }
    });
  }
  ForEachDevice([&] {
    DeviceArray<float> x({kNaN, kInfinity, -kInfinity});
    ASSERT_TRUE(Run([&](auto device) { return ops::SoftCap(30.0f, 1, 3, x.data(), device); }).ok());
    const std::vector<float> out = x.Get();
    EXPECT_TRUE(std::isnan(out[0]));
    EXPECT_EQ(out[1], 30.0f);
    EXPECT_EQ(out[2], -30.0f);
  });
}

// x (1 + erf) / 2 with erf good to two units in its last place (four of kUnit), one rounding of the
// sum and of each product, and on a GPU of the argument (the CPU's erf counts it). The sum's error
// counts against 1 + |erf|: for negative x it is absolute. From |x| = 5.7 on erf is 1 in float32,
// and nothing may be left of the difference however large x.
TYPED_TEST(FunctionsTest, GeluMeetsTheReference) {
  using S = Stored<TypeParam>;
  Random random(4);
  const std::vector<float> extremes = Extremes();
  for (const Sizes size : SizesWithExtremes()) {
    const int rows = size.rows, n = size.n;
    auto in = random.Normals(static_cast<size_t>(rows) * n, 3.0f);
    if (n == static_cast<int>(extremes.size())) {
      std::copy(extremes.begin(), extremes.end(), in.begin() + n);
    }
    in = this->Rounded(in);
    this->ForEachDevice([&] {
      DeviceArray<TypeParam> x(S::From(in));
      ASSERT_TRUE(
          this->Run([&](auto device) { return ops::Gelu(x.data(), rows, n, S::kType, device); })
              .ok());
      const std::vector<float> out = S::Floats(x.Get());
      for (size_t i = 0; i < out.size(); ++i) {
        const double v = in[i], z = v / std::sqrt(2.0), erf = std::erf(z);
        const double expected = v * (1 + erf) / 2;
        // The argument's rounding moves erf by its slope.
        const double argument =
            kOnCpu ? 0 : 2 * std::fabs(z) * 2 / std::sqrt(M_PI) * std::exp(-z * z);
        const double sum_error = 4 * std::fabs(erf) + (1 + erf) + argument;
        const double tolerance = std::fabs(v) / 2 * sum_error + 2 * std::fabs(expected);
        ASSERT_NEAR(out[i], expected,
                    kUnit * tolerance + S::kRounding * std::fabs(expected) + kTiny)
            << "gelu of " << v;
        if (std::fabs(v) >= 5.7) {
          ASSERT_EQ(out[i], v > 0 ? in[i] : 0.0f) << "gelu of " << v;
        }
      }
    });
    if (this->HasFatalFailure()) return;
  }
}

TYPED_TEST(FunctionsTest, ActivationsOfInfinitiesAndNaN) {
  using S = Stored<TypeParam>;
  // gate, then up.
  DeviceArray<TypeParam> gate_up(S::From({kInfinity, -kInfinity, kNaN, 1.0f, 1.0f,  //
                                          1.0f, 1.0f, 1.0f, kNaN, kInfinity}));
  this->ForEachDevice([&] {
    DeviceArray<TypeParam> x(S::From({kInfinity, -kInfinity, kNaN, 1.0f})), y(5);
    ASSERT_TRUE(this->Run([&](auto device) {
                      return ops::Glu(Gating(), gate_up.data(), 1, 5, y.data(), S::kType, device);
                    })
                    .ok());
    ASSERT_TRUE(
        this->Run([&](auto device) { return ops::Gelu(x.data(), 1, 4, S::kType, device); }).ok());
    const std::vector<float> swiglu = S::Floats(y.Get()), gelu = S::Floats(x.Get());
    EXPECT_EQ(swiglu[0], kInfinity);
    // The limit is zero; 0 * infinity is as good, since both say that something overflowed or that
    // nothing is left. A large number would be neither.
    EXPECT_TRUE(swiglu[1] == 0.0f || std::isnan(swiglu[1])) << swiglu[1];
    EXPECT_TRUE(std::isnan(swiglu[2]));
    EXPECT_TRUE(std::isnan(swiglu[3]));
    EXPECT_EQ(swiglu[4], kInfinity);
    EXPECT_EQ(gelu[0], kInfinity);
    EXPECT_TRUE(gelu[1] == 0.0f || std::isnan(gelu[1])) << gelu[1];
    EXPECT_TRUE(std::isnan(gelu[2]));
    EXPECT_NEAR(gelu[3], 0.8413447, 1e-6 + S::kRounding);
  });
}

}  // namespace
}  // namespace packrat
