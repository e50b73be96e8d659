#include "kernels/elementwise.h"

#include <utility>

#include "kernels/sampling.h"
#include "tests/kernels/device.h"

namespace packrat {
namespace {

constexpr double kTiny = 0x1p-126;  // Below it a float32 has no relative precision.

template <class T>
class ElementwiseTest : public KernelTest {
 protected:
  using S = Stored<T>;
  // What is left of the values in this type.
  static std::vector<float> Rounded(const std::vector<float>& values) {
    return S::Floats(S::From(values));
  }
};
TYPED_TEST_SUITE(ElementwiseTest, ActivationTypes);

struct Sizes {
  int rows, n;
};

// Whole groups of eight, odd rows, more than one part of a row; on the CPU also rows enough for the
// threads to share them.
std::vector<Sizes> SomeSizes() {
  std::vector<Sizes> sizes = {{3, 1}, {3, 7}, {3, 32}, {3, 384}, {3, 1003}, {3, 2056}, {3, 4099}};
  if (!kOnCpu) return sizes;
  sizes.insert(sizes.end(), {{1, 16}, {3, 17}, {70, 301}, {5, 4099}});
  Random random(7);
  for (int i = 0; i < 20; ++i) sizes.push_back({random.Int(1, 40), random.Int(1, 100)});
  return sizes;
}

#ifdef PACKRAT_GPU
TYPED_TEST(ElementwiseTest, EmbedCopiesRowsAndZerosUnusedOnes) {
  using S = Stored<TypeParam>;
  Random random(1);
  for (const int n : {1, 7, 32, 384, 1003, 2056, 4099}) {
    const int vocab = 11;
    const std::vector<int32_t> ids = {3, -1, 10, 0, 7, -1};
    const std::vector<int32_t> tokens = {3, -1, 10, 0, SampledInRow(1), SampledInRow(0)};
    std::vector<SampledToken> results(2);
    results[0].status = SampledToken::Status::kNotFinite;
    results[0].token = 1 << 30;
    results[1].token = 7;
    DeviceArray<SampledToken> sampled(results);
    const auto table = S::From(random.Normals(static_cast<size_t>(vocab) * n));
    const std::vector<float> floats = S::Floats(table);
    DeviceArray<TypeParam> device_table(table);
    DeviceArray<int32_t> device_tokens(tokens);
    DeviceArray<float> x(tokens.size() * n);
    ASSERT_TRUE(gpu::Embed(device_table.data(), S::kType, device_tokens.data(), sampled.data(), 6,
                           n, x.data(), this->stream_)
                    .ok());
    this->Wait();
    const std::vector<float> out = x.Get();
    for (size_t r = 0; r < tokens.size(); ++r) {
      for (int i = 0; i < n; ++i) {
        ASSERT_EQ(out[r * n + i], ids[r] < 0 ? 0.0f : floats[ids[r] * n + i]);
      }
    }
  }
}

#endif

// The sum of n squares takes n / 16 + 4 roundings on the CPU, in sixteen lanes; on a GPU over 256
// threads n / 256 + 8 roundings within a thread, 5 in its warp and 8 over the warps. Of them the
// root keeps half; then a division, the mean, eps, a root, a reciprocal and two products. Below
// 1e-19 squares vanish and eps alone divides.
TYPED_TEST(ElementwiseTest, RmsNormMeetsTheReference) {
  using S = Stored<TypeParam>;
  Random random(2);
  for (const float scale : {1.0f, 1e-3f, 1e-15f, 1e-25f, 1e10f, 1e17f}) {
    for (const auto& [rows, n] : SomeSizes()) {
      SCOPED_TRACE(testing::Message() << rows << " rows of " << n << " at " << scale);
      const std::vector<int32_t> indices = {rows - 1, -1, 0, rows - 1};
      const float eps = random.OneOf<float>({1e-6f, 1e-5f});
      const auto x = random.Normals(static_cast<size_t>(rows) * n, scale);
      const auto weight = random.Normals(n);
      const double tolerance =
          kOnCpu ? (n / 16.0 + 4 + 2) / 2 + 2 + 2 : (n / 256.0 + 8 + 5 + 8) / 2 + 1 + 1 + 4 + 2;
      std::vector<double> expected;
      for (int r = 0; r < rows; ++r) {
        double sum = 0;
        for (int i = 0; i < n; ++i) sum += std::pow(double{x[r * n + i]}, 2);
        for (int i = 0; i < n; ++i) {
          expected.push_back(x[r * n + i] / std::sqrt(sum / n + eps) * weight[i]);
        }
      }
      DeviceArray<float> device_x(x), device_weight(weight);
      DeviceArray<int32_t> device_indices(indices);
      DeviceArray<TypeParam> y(x.size()), chosen(indices.size() * n);
      const int num_rows = rows, width = n;  // Bindings cannot be captured.
      const auto norm = [&](const float* from, void* to) {
        ASSERT_TRUE(this->Run([&](auto device) {
                          return ops::RmsNorm(from, num_rows, width, device_weight.data(), eps, to,
                                              S::kType, device);
                        })
                        .ok());
      };
      const auto check = [&] {
        norm(device_x.data(), y.data());
        ASSERT_TRUE(this->Run([&](auto device) {
                          return ops::RmsNormRows(device_x.data(), device_indices.data(), 4, width,
                                                  device_weight.data(), eps, chosen.data(),
                                                  S::kType, device);
                        })
                        .ok());
        const std::vector<float> out = S::Floats(y.Get()), out_chosen = S::Floats(chosen.Get());
        for (size_t i = 0; i < out.size(); ++i) {
          ASSERT_NEAR(out[i], expected[i],
                      (tolerance * kUnit + S::kRounding) * std::fabs(expected[i]) + kTiny);
        }
        for (size_t r = 0; r < indices.size(); ++r) {
          for (int i = 0; i < width; ++i) {
            ASSERT_EQ(out_chosen[r * width + i],
                      indices[r] < 0 ? 0.0f : out[indices[r] * width + i]);
          }
        }
        if (!kOnCpu) return;
        DeviceArray<float> in_place(x);
        norm(in_place.data(), in_place.data());
        ASSERT_TRUE(SameBits(in_place.Get(), out));
      };
      this->ForEachDevice([&] { this->ForEachOrder(check); });
      if (this->HasFatalFailure()) return;
    }
  }
}

TYPED_TEST(ElementwiseTest, RmsNormZerosAndNaN) {
  using S = Stored<TypeParam>;
  for (const int n : {21, 24}) {
    std::vector<float> x(3 * n, 0.0f);
    x[n + 9] = kNaN;
    x[2 * n + 18] = 1.0f;
    DeviceArray<float> device_x(x), weight(std::vector<float>(n, 2.0f));
    DeviceArray<TypeParam> y(x.size());
    const int width = n;
    this->ForEachDevice([&] {
      ASSERT_TRUE(this->Run([&](auto device) {
                        return ops::RmsNorm(device_x.data(), 3, width, weight.data(), 1e-6f,
                                            y.data(), S::kType, device);
                      })
                      .ok());
      const std::vector<float> out = S::Floats(y.Get());
      for (int i = 0; i < width; ++i) {
        EXPECT_EQ(out[i], 0.0f);
        EXPECT_TRUE(std::isnan(out[width + i]));
        EXPECT_NEAR(out[2 * width + i], i == 18 ? 2 * std::sqrt(width) : 0.0,
                    1e-3 + 8 * S::kRounding);
      }
    });
  }
}

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
TYPED_TEST(ElementwiseTest, SwiGluMeetsTheReference) {
  using S = Stored<TypeParam>;
  Random random(3);
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
                        return ops::SwiGlu(gate_up.data(), rows, n, y.data(), S::kType, device);
                      })
                      .ok());
      const std::vector<float> out = S::Floats(y.Get());
      for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < n; ++i) {
          const double gate = in[r * 2 * n + i], up = in[r * 2 * n + n + i];
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

// x (1 + erf) / 2 with erf good to two units in its last place (four of kUnit), one rounding of the
// sum and of each product, and on a GPU of the argument (the CPU's erf counts it). The sum's error
// counts against 1 + |erf|: for negative x it is absolute. From |x| = 5.7 on erf is 1 in float32,
// and nothing may be left of the difference however large x.
TYPED_TEST(ElementwiseTest, GeluMeetsTheReference) {
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

TYPED_TEST(ElementwiseTest, ActivationsOfInfinitiesAndNaN) {
  using S = Stored<TypeParam>;
  // gate, then up.
  DeviceArray<TypeParam> gate_up(S::From({kInfinity, -kInfinity, kNaN, 1.0f, 1.0f,  //
                                          1.0f, 1.0f, 1.0f, kNaN, kInfinity}));
  this->ForEachDevice([&] {
    DeviceArray<TypeParam> x(S::From({kInfinity, -kInfinity, kNaN, 1.0f})), y(5);
    ASSERT_TRUE(this->Run([&](auto device) {
                      return ops::SwiGlu(gate_up.data(), 1, 5, y.data(), S::kType, device);
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

#ifdef PACKRAT_GPU
// A graph captured once serves other contents, and nothing is allocated.
TEST_F(KernelTest, ElementwiseIsCaptured) {
  const int n = 40;
  Random random(6);
  DeviceArray<float> x(2 * n), weight(random.Normals(n)), y(2 * n);
  DeviceArray<int32_t> tokens(2);
  const std::vector<float> table = random.Normals(5 * n);
  DeviceArray<float> device_table(table);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  EXPECT_CUDA_OK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  EXPECT_TRUE(
      gpu::Embed(device_table.data(), DType::kF32, tokens.data(), nullptr, 2, n, x.data(), stream_)
          .ok());
  EXPECT_TRUE(
      gpu::RmsNorm(x.data(), 2, n, weight.data(), 1e-6f, y.data(), DType::kF32, stream_).ok());
  EXPECT_CUDA_OK(cudaStreamEndCapture(stream_, &graph));
  EXPECT_CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  for (const int token : {4, 1}) {
    tokens.Set({-1, token});
    EXPECT_CUDA_OK(cudaGraphLaunch(exec, stream_));
    Wait();
    const std::vector<float> embedded = x.Get(), normed = y.Get();
    for (int i = 0; i < n; ++i) {
      EXPECT_EQ(embedded[i], 0.0f);
      EXPECT_EQ(normed[i], 0.0f);
      EXPECT_EQ(embedded[n + i], table[token * n + i]);
      EXPECT_NE(normed[n + i], 0.0f);
    }
  }
  EXPECT_CUDA_OK(cudaGraphExecDestroy(exec));
  EXPECT_CUDA_OK(cudaGraphDestroy(graph));
}

TEST_F(KernelTest, NothingToDoIsFine) {
  EXPECT_TRUE(gpu::Embed(nullptr, DType::kF32, nullptr, nullptr, 0, 8, nullptr, stream_).ok());
  EXPECT_TRUE(
      gpu::RmsNormRows(nullptr, nullptr, 0, 8, nullptr, 1e-6f, nullptr, DType::kBF16, stream_)
          .ok());
  EXPECT_TRUE(gpu::CheckFinite(BatchView(), nullptr, 8, nullptr, stream_).ok());
  Wait();
}
#else
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
#endif

}  // namespace
}  // namespace packrat
