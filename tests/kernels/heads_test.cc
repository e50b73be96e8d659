// What attention does to heads beside attending: norms of queries and keys, and the output gate.
#include <cmath>

#include "kernels/elementwise.h"
#include "tests/kernels/device.h"

namespace packrat {
namespace {

constexpr double kTiny = 0x1p-126;  // Below it a float32 has no relative precision.

template <class T>
class HeadsTest : public KernelTest {
 protected:
  using S = Stored<T>;
  static std::vector<float> Rounded(const std::vector<float>& values) {
    return S::Floats(S::From(values));
  }
};
TYPED_TEST_SUITE(HeadsTest, ActivationTypes);

struct Sizes {
  int rows, heads, dim;
  int before, after;  // Columns of a row that are not the heads'.
};

// Whole groups of eight, aligned or not, and heads that end inside a group or a vector.
std::vector<Sizes> SomeSizes() {
  std::vector<Sizes> sizes = {{3, 2, 32, 0, 0},   {3, 2, 32, 32, 64},  {3, 4, 128, 8, 8},
                              {2, 3, 256, 3, 2},  {1, 1, 2, 1, 0},     {4, 5, 6, 0, 1},
                              {5, 1, 34, 16, 16}, {2, 9, 130, 5, 130}, {9, 1, 64, 0, 65}};
  if (!kOnCpu) return sizes;
  sizes.push_back({70, 6, 64, 16, 32});  // Enough for the threads to share them.
  Random random(7);
  for (int i = 0; i < 20; ++i) {
    sizes.push_back({random.Int(1, 6), random.Int(1, 5), 2 * random.Int(1, 128), random.Int(0, 20),
                     random.Int(0, 20)});
  }
  return sizes;
}

// The sum of n squares takes n / 16 + 4 roundings on the CPU, in sixteen lanes; on a GPU eight
// within a lane and 5 in its warp. Of them the root keeps half; then a division, the mean, eps, a
// root, a reciprocal and two products. Below 1e-19 squares vanish and eps alone divides.
TYPED_TEST(HeadsTest, RmsNormHeadsMeetsTheReferenceAndTouchesNothingElse) {
  using S = Stored<TypeParam>;
  Random random(1);
  for (const float scale : {1.0f, 1e-3f, 1e-25f, 1e10f}) {
    for (const Sizes& size : SomeSizes()) {
      const int rows = size.rows, heads = size.heads, dim = size.dim, before = size.before;
      const int stride = before + heads * dim + size.after;
      SCOPED_TRACE(testing::Message() << rows << " rows of " << heads << " heads of " << dim
                                      << " after " << before << " of " << stride);
      const float eps = random.OneOf<float>({1e-6f, 1e-5f});
      const auto in = this->Rounded(random.Normals(static_cast<size_t>(rows) * stride, scale));
      const DeviceArray<float> weight(random.Normals(dim));
      const std::vector<float> weights = weight.Get();
      const double tolerance =
          kOnCpu ? (dim / 16.0 + 4 + 2) / 2 + 2 + 2 : (8 + 5) / 2.0 + 1 + 1 + 4 + 2;
      const auto norm = [&](DeviceArray<TypeParam>* x, int first_row, int num_rows) {
        TypeParam* at = x->data() + first_row * stride + before;
        ASSERT_TRUE(this->Run([&](auto device) {
                          return ops::RmsNormHeads(at, stride, num_rows, heads, dim, weight.data(),
                                                   eps, S::kType, device);
                        })
                        .ok());
      };
      const auto check = [&] {
        DeviceArray<TypeParam> x(S::From(in));
        norm(&x, 0, rows);
        const std::vector<float> out = S::Floats(x.Get());
        for (int r = 0; r < rows; ++r) {
          for (int c = 0; c < stride; ++c) {
            const int channel = c - before, head = r * stride + before + channel / dim * dim;
            if (channel < 0 || channel >= heads * dim) {
              ASSERT_EQ(out[r * stride + c], in[r * stride + c]) << "column " << c;
              continue;
            }
            double sum = 0;
            for (int i = 0; i < dim; ++i) sum += std::pow(double{in[head + i]}, 2);
            const double expected =
                in[r * stride + c] / std::sqrt(sum / dim + eps) * weights[channel % dim];
            ASSERT_NEAR(out[r * stride + c], expected,
                        (tolerance * kUnit + S::kRounding) * std::fabs(expected) + kTiny);
          }
        }
        // Rows by themselves give the same bits.
        DeviceArray<TypeParam> alone(S::From(in));
        for (int r = 0; r < rows; ++r) norm(&alone, r, 1);
        ASSERT_TRUE(SameBits(S::Floats(alone.Get()), out));
      };
      this->ForEachDevice([&] { this->ForEachOrder(check); });
      if (this->HasFatalFailure()) return;
    }
  }
}

TYPED_TEST(HeadsTest, RmsNormHeadsKeepsANaNInItsHead) {
  using S = Stored<TypeParam>;
  const int dim = 24;
  std::vector<float> in(3 * dim, 0.0f);
  in[dim + 9] = kNaN;
  in[2 * dim + 18] = 1.0f;
  const DeviceArray<float> weight(std::vector<float>(dim, 2.0f));
  this->ForEachDevice([&] {
    DeviceArray<TypeParam> x(S::From(in));
    ASSERT_TRUE(this->Run([&](auto device) {
                      return ops::RmsNormHeads(x.data(), 3 * dim, 1, 3, dim, weight.data(), 1e-6f,
                                               S::kType, device);
                    })
                    .ok());
    const std::vector<float> out = S::Floats(x.Get());
    for (int i = 0; i < dim; ++i) {
      EXPECT_EQ(out[i], 0.0f);
      EXPECT_TRUE(std::isnan(out[dim + i]));
      EXPECT_NEAR(out[2 * dim + i], i == 18 ? 2 * std::sqrt(dim) : 0.0, 1e-3 + 8 * S::kRounding);
    }
  });
}

// sigmoid(x) = 1 / (1 + exp(-x)): as for Glu() in elementwise_test.cc, less a product.
TYPED_TEST(HeadsTest, SigmoidGateMeetsTheReference) {
  using S = Stored<TypeParam>;
  Random random(2);
  for (const Sizes& size : SomeSizes()) {
    const int rows = size.rows, n = size.heads * size.dim, before = size.before;
    const int stride = before + n + size.after;
    SCOPED_TRACE(testing::Message()
                 << rows << " rows of " << n << " after " << before << " of " << stride);
    std::vector<float> gates = random.Normals(static_cast<size_t>(rows) * stride, 3.0f);
    for (float& gate : gates) {
      if (random.Int(0, 5) == 0) gate *= random.OneOf<float>({0.0f, 30.0f, 1e4f, 1e30f});
    }
    gates = this->Rounded(gates);
    const auto in = this->Rounded(random.Normals(static_cast<size_t>(rows) * n));
    const DeviceArray<TypeParam> gate(S::From(gates));
    this->ForEachDevice([&] {
      DeviceArray<TypeParam> y(S::From(in));
      ASSERT_TRUE(this->Run([&](auto device) {
                        return ops::SigmoidGate(gate.data() + before, stride, rows, n, y.data(),
                                                S::kType, device);
                      })
                      .ok());
      const std::vector<float> out = S::Floats(y.Get());
      for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < n; ++i) {
          const double x = gates[r * stride + before + i], value = in[r * n + i];
          const double expected = value / (1 + std::exp(-x));
          ASSERT_NEAR(out[r * n + i], expected,
                      ((kOnCpu ? 5 : 7) * kUnit + S::kRounding) * std::fabs(expected) +
                          kTiny * (1 + std::fabs(value)))
              << "gate " << x;
        }
      }
    });
    if (this->HasFatalFailure()) return;
  }
}

TYPED_TEST(HeadsTest, SigmoidGateOfInfinitiesAndNaN) {
  using S = Stored<TypeParam>;
  const DeviceArray<TypeParam> gate(S::From({kInfinity, -kInfinity, kNaN, 0.0f}));
  this->ForEachDevice([&] {
    DeviceArray<TypeParam> y(S::From({3.0f, 3.0f, 3.0f, kNaN}));
    ASSERT_TRUE(this->Run([&](auto device) {
                      return ops::SigmoidGate(gate.data(), 4, 1, 4, y.data(), S::kType, device);
                    })
                    .ok());
    const std::vector<float> out = S::Floats(y.Get());
    EXPECT_EQ(out[0], 3.0f);
    EXPECT_EQ(out[1], 0.0f);
    EXPECT_TRUE(std::isnan(out[2]));
    EXPECT_TRUE(std::isnan(out[3]));
  });
}

}  // namespace
}  // namespace packrat
