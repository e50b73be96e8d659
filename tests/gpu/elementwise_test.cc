#include "kernels/elementwise.h"

#include <memory>
#include <utility>

#include "kernels/rope.h"
#include "kernels/sampling.h"
#include "tests/gpu/gpu.h"
#include "tests/kernels/random.h"

namespace packrat {
namespace {

constexpr double kTiny = 0x1p-126;  // Below it a float32 has no relative precision.

// Values of the activations' type: what device memory holds, and what that means.
template <class T>
struct Activations;
template <>
struct Activations<float> {
  static constexpr DType kType = DType::kF32;
  static constexpr double kRounding = 0;  // Beside that of float32.
  static std::vector<float> Stored(const std::vector<float>& values) { return values; }
  static std::vector<float> Floats(const std::vector<float>& values) { return values; }
};
template <>
struct Activations<__nv_bfloat16> {
  static constexpr DType kType = DType::kBF16;
  static constexpr double kRounding =
      0x1p-8;  // Eight bits of significand, the first of them implied.
  static std::vector<__nv_bfloat16> Stored(const std::vector<float>& values) {
    return ToBFloat16(values);
  }
  static std::vector<float> Floats(const std::vector<__nv_bfloat16>& values) {
    return ToFloats(values);
  }
};

template <class T>
class ElementwiseGpuTest : public GpuTest {
 protected:
  using A = Activations<T>;
  // What is left of the values in this type.
  static std::vector<float> Rounded(const std::vector<float>& values) {
    return A::Floats(A::Stored(values));
  }
};
using Types = testing::Types<float, __nv_bfloat16>;
TYPED_TEST_SUITE(ElementwiseGpuTest, Types);

// Whole groups of eight, odd rows, more than one part of a row.
constexpr int kWidths[] = {1, 7, 32, 384, 1003, 2056, 4099};

TYPED_TEST(ElementwiseGpuTest, EmbedCopiesRowsAndZerosUnusedOnes) {
  using A = Activations<TypeParam>;
  Random random(1);
  for (const int n : kWidths) {
    const int vocab = 11;
    const std::vector<int32_t> ids = {3, -1, 10, 0, 7, -1};
    const std::vector<int32_t> tokens = {3, -1, 10, 0, SampledInRow(1), SampledInRow(0)};
    std::vector<SampledToken> results(2);
    results[0].status = SampledToken::Status::kNotFinite;
    results[0].token = 1 << 30;
    results[1].token = 7;
    DeviceArray<SampledToken> sampled(results);
    const auto table = A::Stored(random.Normals(static_cast<size_t>(vocab) * n));
    const std::vector<float> floats = A::Floats(table);
    DeviceArray<TypeParam> device_table(table);
    DeviceArray<int32_t> device_tokens(tokens);
    DeviceArray<float> x(tokens.size() * n);
    ASSERT_TRUE(gpu::Embed(device_table.data(), A::kType, device_tokens.data(), sampled.data(), 6,
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

// The sum of n squares over 256 threads takes n / 256 + 8 roundings within a thread, 5 in its warp
// and 8 over the warps, of which the root keeps half; then a division, eps, the root (two units)
// and two products. Below 1e-19 squares vanish and eps alone divides.
TYPED_TEST(ElementwiseGpuTest, RmsNormMeetsTheReference) {
  using A = Activations<TypeParam>;
  Random random(2);
  const float eps = 1e-6f;
  for (const float scale : {1.0f, 1e-3f, 1e-25f, 1e17f}) {
    for (const int n : kWidths) {
      SCOPED_TRACE(testing::Message() << "n " << n << " at " << scale);
      const std::vector<int32_t> indices = {2, -1, 0, 2};
      const int rows = 3;
      const auto x = random.Normals(static_cast<size_t>(rows) * n, scale);
      const auto weight = random.Normals(n);
      DeviceArray<float> device_x(x), device_weight(weight);
      DeviceArray<int32_t> device_indices(indices);
      DeviceArray<TypeParam> y(x.size()), chosen(indices.size() * n);
      const double tolerance = (n / 256.0 + 8 + 5 + 8) / 2 + 1 + 1 + 4 + 2;
      this->ForEachOrder([&] {
        ASSERT_TRUE(gpu::RmsNorm(device_x.data(), rows, n, device_weight.data(), eps, y.data(),
                                 A::kType, this->stream_)
                        .ok());
        ASSERT_TRUE(gpu::RmsNormRows(device_x.data(), device_indices.data(), 4, n,
                                     device_weight.data(), eps, chosen.data(), A::kType,
                                     this->stream_)
                        .ok());
        this->Wait();
        const std::vector<float> out = A::Floats(y.Get()), out_chosen = A::Floats(chosen.Get());
        for (int r = 0; r < rows; ++r) {
          double sum = 0;
          for (int i = 0; i < n; ++i) sum += std::pow(double{x[r * n + i]}, 2);
          for (int i = 0; i < n; ++i) {
            const double expected = x[r * n + i] / std::sqrt(sum / n + eps) * weight[i];
            ASSERT_NEAR(out[r * n + i], expected,
                        (tolerance * kUnit + A::kRounding) * std::fabs(expected) + kTiny);
          }
        }
        for (size_t r = 0; r < indices.size(); ++r) {
          for (int i = 0; i < n; ++i) {
            ASSERT_EQ(out_chosen[r * n + i], indices[r] < 0 ? 0.0f : out[indices[r] * n + i]);
          }
        }
      });
      if (this->HasFatalFailure()) return;
    }
  }
}

TYPED_TEST(ElementwiseGpuTest, RmsNormZerosAndNaN) {
  using A = Activations<TypeParam>;
  for (const int n : {21, 24}) {
    std::vector<float> x(3 * n, 0.0f);
    x[n + 9] = kNaN;
    x[2 * n + 18] = 1.0f;
    DeviceArray<float> device_x(x), weight(std::vector<float>(n, 2.0f));
    DeviceArray<TypeParam> y(x.size());
    ASSERT_TRUE(
        gpu::RmsNorm(device_x.data(), 3, n, weight.data(), 1e-6f, y.data(), A::kType, this->stream_)
            .ok());
    this->Wait();
    const std::vector<float> out = A::Floats(y.Get());
    for (int i = 0; i < n; ++i) {
      EXPECT_EQ(out[i], 0.0f);
      EXPECT_TRUE(std::isnan(out[n + i]));
      EXPECT_NEAR(out[2 * n + i], i == 18 ? 2 * std::sqrt(n) : 0.0, 0.03);
    }
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

// silu(x) = x / (1 + exp(-x)): exp is good to two units in the last place (four of kUnit), of which
// the sum keeps no more; then sum, division and two products. exp overflows below -88.7, where the
// sigmoid is less than kTiny.
TYPED_TEST(ElementwiseGpuTest, SwiGluMeetsTheReference) {
  using A = Activations<TypeParam>;
  Random random(3);
  const std::vector<float> extremes = Extremes();
  std::vector<int> widths(std::begin(kWidths), std::end(kWidths));
  widths.push_back(static_cast<int>(extremes.size()));
  for (const int n : widths) {
    const int rows = 3;
    auto in = random.Normals(static_cast<size_t>(rows) * 2 * n, 3.0f);
    if (n == widths.back()) std::copy(extremes.begin(), extremes.end(), in.begin() + 2 * n);
    in = this->Rounded(in);
    DeviceArray<TypeParam> gate_up(A::Stored(in)), y(static_cast<size_t>(rows) * n);
    ASSERT_TRUE(gpu::SwiGlu(gate_up.data(), rows, n, y.data(), A::kType, this->stream_).ok());
    this->Wait();
    const std::vector<float> out = A::Floats(y.Get());
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < n; ++i) {
        const double gate = in[r * 2 * n + i], up = in[r * 2 * n + n + i];
        const double expected = gate / (1 + std::exp(-gate)) * up;
        ASSERT_NEAR(
            out[r * n + i], expected,
            (8 * kUnit + A::kRounding) * std::fabs(expected) + kTiny * (1 + std::fabs(gate * up)))
            << "silu of " << gate;
      }
    }
  }
}

// x (1 + erf) / 2 with erf good to two units in its last place (four of kUnit), one rounding of the
// argument, the sum and of each product. The sum's error counts against 1 + |erf|: for negative x
// it is absolute. From |x| = 5.7 on erf is 1 in float32, and nothing may be left of the difference.
TYPED_TEST(ElementwiseGpuTest, GeluMeetsTheReference) {
  using A = Activations<TypeParam>;
  Random random(4);
  const std::vector<float> extremes = Extremes();
  std::vector<int> widths(std::begin(kWidths), std::end(kWidths));
  widths.push_back(static_cast<int>(extremes.size()));
  for (const int n : widths) {
    const int rows = n == widths.back() ? 1 : 3;
    const auto in = this->Rounded(
        n == widths.back() ? extremes : random.Normals(static_cast<size_t>(rows) * n, 3.0f));
    DeviceArray<TypeParam> x(A::Stored(in));
    ASSERT_TRUE(gpu::Gelu(x.data(), rows, n, A::kType, this->stream_).ok());
    this->Wait();
    const std::vector<float> out = A::Floats(x.Get());
    for (size_t i = 0; i < out.size(); ++i) {
      const double v = in[i], z = v / std::sqrt(2.0), erf = std::erf(z);
      const double expected = v * (1 + erf) / 2;
      // The argument's rounding moves erf by its slope.
      const double argument = 2 * std::fabs(z) * 2 / std::sqrt(M_PI) * std::exp(-z * z);
      const double sum_error = 4 * std::fabs(erf) + (1 + erf) + argument;
      const double tolerance = std::fabs(v) / 2 * sum_error + 2 * std::fabs(expected);
      ASSERT_NEAR(out[i], expected, kUnit * tolerance + A::kRounding * std::fabs(expected) + kTiny)
          << "gelu of " << v;
      if (std::fabs(v) >= 5.7) {
        ASSERT_EQ(out[i], v > 0 ? in[i] : 0.0f) << "gelu of " << v;
      }
    }
  }
}

TYPED_TEST(ElementwiseGpuTest, ActivationsOfInfinitiesAndNaN) {
  using A = Activations<TypeParam>;
  // gate, then up.
  DeviceArray<TypeParam> gate_up(A::Stored({kInfinity, -kInfinity, kNaN, 1.0f, 1.0f,  //
                                            1.0f, 1.0f, 1.0f, kNaN, kInfinity}));
  DeviceArray<TypeParam> x(A::Stored({kInfinity, -kInfinity, kNaN, 1.0f})), y(5);
  ASSERT_TRUE(gpu::SwiGlu(gate_up.data(), 1, 5, y.data(), A::kType, this->stream_).ok());
  ASSERT_TRUE(gpu::Gelu(x.data(), 1, 4, A::kType, this->stream_).ok());
  this->Wait();
  const std::vector<float> swiglu = A::Floats(y.Get()), gelu = A::Floats(x.Get());
  EXPECT_EQ(swiglu[0], kInfinity);
  // The limit is zero; 0 * infinity is as good. A large number would be neither.
  EXPECT_TRUE(swiglu[1] == 0.0f || std::isnan(swiglu[1])) << swiglu[1];
  EXPECT_TRUE(std::isnan(swiglu[2]));
  EXPECT_TRUE(std::isnan(swiglu[3]));
  EXPECT_EQ(swiglu[4], kInfinity);
  EXPECT_EQ(gelu[0], kInfinity);
  EXPECT_TRUE(gelu[1] == 0.0f || std::isnan(gelu[1])) << gelu[1];
  EXPECT_TRUE(std::isnan(gelu[2]));
  EXPECT_NEAR(gelu[3], 0.8413447, 1e-6 + A::kRounding);
}

class BatchGpuTest : public GpuTest {
 protected:
  // Three spans, the second unused, and unused tokens in between and at the end.
  static std::vector<GpuSpan> Spans() {
    std::vector<GpuSpan> spans(4);
    spans[0].first_token = 0, spans[0].num_tokens = 1, spans[0].position = 1000000;
    spans[2].first_token = 2, spans[2].num_tokens = 5, spans[2].position = 13;
    spans[3].first_token = 7, spans[3].num_tokens = 2, spans[3].position = 0;
    return spans;
  }
  const std::vector<int32_t> token_span_ = {0, -1, 2, 2, 2, 2, 2, 3, 3, -1};
  GpuBatch Batch() const {
    GpuBatch batch;
    batch.spans = spans_->data();
    batch.token_span = device_token_span_->data();
    batch.num_spans = 4;
    batch.num_tokens = static_cast<int>(token_span_.size());
    batch.max_span_tokens = 5;
    batch.max_context = 1000001;
    return batch;
  }

  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    spans_ = std::make_unique<DeviceArray<GpuSpan>>(Spans());
    device_token_span_ = std::make_unique<DeviceArray<int32_t>>(token_span_);
  }

 private:
  std::unique_ptr<DeviceArray<GpuSpan>> spans_;
  std::unique_ptr<DeviceArray<int32_t>> device_token_span_;
};

// sin and cos in double precision are good to two of its units on either side, so that float32
// results differ by one unit at most, where they lie at the border of two.
TEST_F(BatchGpuTest, FillRopeIsTheTableOfTheCpu) {
  for (const int head_dim : {2, 6, 64, 128}) {
    for (const int divisor : {1, 16}) {
      RopeTable table(10000.0, head_dim, divisor, 10);
      std::vector<double> frequencies;
      for (int i = 0; i < head_dim / 2; ++i) {
        frequencies.push_back(std::pow(10000.0, -2.0 * i / head_dim));
      }
      DeviceArray<double> device_frequencies(frequencies);
      DeviceArray<float> rope(static_cast<size_t>(10) * head_dim);
      ASSERT_TRUE(
          gpu::FillRope(Batch(), device_frequencies.data(), head_dim, divisor, rope.data(), stream_)
              .ok());
      Wait();
      const std::vector<float> out = rope.Get();
      for (size_t token = 0; token < token_span_.size(); ++token) {
        if (token_span_[token] < 0) {
          for (int i = 0; i < head_dim; ++i) {
            uint32_t bits;
            std::memcpy(&bits, &out[token * head_dim + i], 4);
            ASSERT_EQ(bits, 0xffffffffu) << "an unused row was written";
          }
          continue;
        }
        const GpuSpan span = Spans()[token_span_[token]];
        table.Set(static_cast<int>(token),
                  span.position + static_cast<int>(token) - span.first_token);
        for (int i = 0; i < head_dim; ++i) {
          const float expected = table.row(static_cast<int>(token))[i];
          ASSERT_NEAR(out[token * head_dim + i], expected, 2 * kUnit * std::fabs(expected));
        }
      }
    }
  }
}

TEST_F(BatchGpuTest, CheckFiniteFindsOneAtEveryPlace) {
  Random random(5);
  DeviceArray<GpuStats> stats(4);
  for (const int n : {1, 40, 2051}) {
    auto x = random.Normals(token_span_.size() * n, 1e38f);
    for (float& v : x) v = std::isfinite(v) ? v : 3e38f;
    DeviceArray<float> device_x(x);
    const auto run = [&] {
      stats.Set(std::vector<GpuStats>(4, GpuStats()));
      device_x.Set(x);
      EXPECT_TRUE(gpu::CheckFinite(Batch(), device_x.data(), n, stats.data(), stream_).ok());
      Wait();
      return stats.Get();
    };
    // Unused rows may hold anything.
    x[n] = x[9 * n] = kNaN;
    for (const GpuStats& s : run()) EXPECT_EQ(s.not_finite, 0u);
    for (size_t token = 0; token < token_span_.size(); ++token) {
      const int span = token_span_[token];
      if (span < 0) continue;
      for (const float bad : {kNaN, -kInfinity}) {
        for (const int i : {0, n / 2, n - 1}) {
          const float kept = std::exchange(x[token * n + i], bad);
          const std::vector<GpuStats> found = run();
          for (int s = 0; s < 4; ++s) {
            ASSERT_EQ(found[s].not_finite, s == span)
                << bad << " at " << i << " of token " << token;
            ASSERT_EQ(found[s].cg_steps, 0u);
          }
          x[token * n + i] = kept;
        }
      }
    }
  }
}

// A graph captured once serves other contents, and nothing is allocated.
TEST_F(GpuTest, ElementwiseIsCaptured) {
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

TEST_F(GpuTest, NothingToDoIsFine) {
  EXPECT_TRUE(gpu::Embed(nullptr, DType::kF32, nullptr, nullptr, 0, 8, nullptr, stream_).ok());
  EXPECT_TRUE(
      gpu::RmsNormRows(nullptr, nullptr, 0, 8, nullptr, 1e-6f, nullptr, DType::kBF16, stream_)
          .ok());
  EXPECT_TRUE(gpu::CheckFinite(GpuBatch(), nullptr, 8, nullptr, stream_).ok());
  Wait();
}

}  // namespace
}  // namespace packrat
