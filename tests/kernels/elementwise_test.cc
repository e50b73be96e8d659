#include "kernels/elementwise.h"

#include <utility>

#include "kernels/sampling.h"
#include "tests/kernels/quantized_weight.h"
#include "tests/kernels/rows.h"

namespace packrat {
namespace {

template <class T>
using ElementwiseTest = RowsTest<T>;
TYPED_TEST_SUITE(ElementwiseTest, ActivationTypes);

#ifdef PACKRAT_GPU
TYPED_TEST(ElementwiseTest, EmbedCopiesRowsAndZerosUnusedOnes) {
  using S = Stored<TypeParam>;
  Random random(1);
  for (const int n : {1, 7, 32, 384, 1003, 2056, 4099}) {
    const int vocab = 11;
    const float scale = n % 2 == 0 ? 1.0f : 0.3f;
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
                           n, scale, x.data(), {}, this->stream_)
                    .ok());
    this->Wait();
    const std::vector<float> out = x.Get();
    for (size_t r = 0; r < tokens.size(); ++r) {
      for (int i = 0; i < n; ++i) {
        ASSERT_EQ(out[r * n + i], ids[r] < 0 ? 0.0f : scale * floats[ids[r] * n + i]);
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

// One more rounding than RmsNorm(), of the sum; Convert() has that of the type alone.
TYPED_TEST(ElementwiseTest, AddRmsNormAddsAndConvertRounds) {
  using S = Stored<TypeParam>;
  Random random(8);
  for (const Sizes size : SomeSizes()) {
    const int rows = size.rows, n = size.n;
    const auto y = random.Normals(static_cast<size_t>(rows) * n, 2.0f);
    const auto before = random.Normals(y.size()), weight = random.Normals(n);
    DeviceArray<float> device_y(y), device_weight(weight);
    DeviceArray<TypeParam> converted(y.size());
    this->ForEachDevice([&] {
      DeviceArray<float> x(before), normed(y.size());
      ASSERT_TRUE(this->Run([&](auto device) {
                        return ops::AddRmsNorm(device_y.data(), rows, n, device_weight.data(),
                                               1e-5f, x.data(), device);
                      })
                      .ok());
      ASSERT_TRUE(this->Run([&](auto device) {
                        return ops::RmsNorm(device_y.data(), rows, n, device_weight.data(), 1e-5f,
                                            normed.data(), DType::kF32, device);
                      })
                      .ok());
      ASSERT_TRUE(this->Run([&](auto device) {
                        return ops::Convert(device_y.data(), rows, n, converted.data(), S::kType,
                                            device);
                      })
                      .ok());
      const std::vector<float> out = x.Get(), norm = normed.Get();
      for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], before[i] + norm[i]);
      ASSERT_TRUE(SameBits(S::Floats(converted.Get()), this->Rounded(y)));
    });
    if (this->HasFatalFailure()) return;
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
  const auto launch = [&] {
    EXPECT_TRUE(gpu::Embed(device_table.data(), DType::kF32, tokens.data(), nullptr, 2, n, 1.0f,
                           x.data(), {}, stream_)
                    .ok());
    EXPECT_TRUE(
        gpu::RmsNorm(x.data(), 2, n, weight.data(), 1e-6f, y.data(), DType::kF32, stream_).ok());
  };
  tokens.Set({0, 0});
  launch();  // Kernels are loaded when they are first used, which must not be in a capture.
  EXPECT_CUDA_OK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  launch();
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

// Rows of an embedding that is quantised, exactly.
TEST_F(KernelTest, EmbedWidensQuantisedRows) {
  Random random(31);
  for (const DType format : kFormats) {
    for (const int n : {32, 64, 96, 2080}) {
      const int vocab = 37;
      const QuantizedWeight table = MakeQuantizedWeight(&random, format, vocab, n);
      DeviceArray<std::byte> tiles(table.tiles);
      const std::vector<int32_t> ids = {36, 0, -1, 9, 15, 16, 24, 7};
      DeviceArray<int32_t> tokens(ids);
      DeviceArray<float> x(ids.size() * n);
      ASSERT_TRUE(gpu::Embed(tiles.data(), format, tokens.data(), nullptr,
                             static_cast<int>(ids.size()), n, 0.3f, x.data(), {}, stream_)
                      .ok());
      Wait();
      const std::vector<float> out = x.Get();
      for (size_t r = 0; r < ids.size(); ++r) {
        for (int i = 0; i < n; ++i) {
          ASSERT_EQ(out[r * n + i], ids[r] < 0 ? 0.0f : table.values[ids[r] * n + i] * 0.3f)
              << DTypeName(format) << " " << n << ": row " << ids[r] << " element " << i;
        }
      }
    }
  }
}

TEST_F(KernelTest, NothingToDoIsFine) {
  EXPECT_TRUE(
      gpu::Embed(nullptr, DType::kF32, nullptr, nullptr, 0, 8, 1.0f, nullptr, {}, stream_).ok());
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
