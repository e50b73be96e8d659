// Products by tiles. Few processors have them, so what is around the instruction is held against a
// plain reference with tiles that are computed here, as Intel's reference states them; and where
// the processor has tiles, its own against these.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu_target.h"
#include "kernels/flush_subnormals.h"
#include "kernels/matmul.h"
#include "kernels/matmul_tiles-inl.h"
#include "tests/kernels/plain_tiles.h"
#include "tests/kernels/random.h"
#include "tests/kernels/reference.h"

namespace packrat {
namespace {

struct MatMulPlainTiles : PlainTiles {
  static void FinishRow(const float* sums, const MatMulOutput& output, int panel, float* y) {
    const int first = panel * PackedMatrix::kPanel;
    for (int c = 0; c < PackedMatrix::kPanel && first + c < output.weight->out(); ++c) {
      float sum = sums[c];
      if (output.bias != nullptr) sum += output.bias[first + c];
      sum *= output.scale;
      y[c] = output.accumulate ? sum + y[c] : sum;
    }
  }
  // As RoundToPairs() does, on any processor.
  static void Round(const float* x, int in, float* packed) {
    for (int k = 0; k < (in + 1) / 2 * 2; ++k) {
      const float rounded = k < in ? Storage{true}(Flushed(x[k])) : 0;
      std::memcpy(reinterpret_cast<char*>(packed) + 2 * k,
                  reinterpret_cast<const char*>(&rounded) + 2, 2);
    }
  }
};

// Of any size: within some powers of two of 1, or of the smallest or the largest.
float Wild(Random* random) {
  return std::ldexp(random->Normal(), random->OneOf<int>({-130, 0, 120}) + random->Int(-4, 6));
}

struct Product {
  explicit Product(Random* random)
      : rows(random->Int(1, 80)), in(random->Int(1, 140)), out(random->Int(1, 100)) {
    weights.resize(static_cast<size_t>(out) * in);
    for (uint16_t& w : weights) {
      const float value = Wild(random);
      std::memcpy(&w, reinterpret_cast<const char*>(&value) + 2, 2);
    }
    matrix = PackedMatrix(weights.data(), DType::kBF16, Arithmetic::kBFloat16, out, in);
    x.resize(static_cast<size_t>(rows) * in);
    for (float& value : x) value = Wild(random);
    y.resize(static_cast<size_t>(rows) * out);
    bias.resize(out);
    for (float& value : y) value = random->Normal();
    for (float& value : bias) value = random->Normal();
    accumulate = random->Int(0, 1) == 1;
    biased = random->Int(0, 1) == 1;
    scale = random->OneOf<float>({1.0f, 0.3f});
  }
  MatMulOutput To(float* to) const {
    return {&matrix, to, out, biased ? bias.data() : nullptr, accumulate, scale};
  }
  // By pieces of 32 inputs.
  float Expected(int r, int o) const {
    float sum = 0;
    for (int begin = 0; begin < in; begin += 32) {
      float parts[2] = {0, 0};
      for (int k = begin; k < in && k < begin + 32; ++k) {
        const float left = Storage{true}(Flushed(x[r * in + k]));
        parts[k % 2] =
            MultiplyAdd(left, Value(weights[static_cast<size_t>(o) * in + k]), parts[k % 2]);
      }
      sum = Add(sum, Add(parts[0], parts[1]));
    }
    if (biased) sum += bias[o];
    sum *= scale;
    const float before = y[static_cast<size_t>(r) * out + o];
    return accumulate ? sum + before : sum;
  }
  void Check(const std::vector<float>& is) const {
    for (int r = 0; r < rows; ++r) {
      for (int o = 0; o < out; ++o) {
        const float got = is[static_cast<size_t>(r) * out + o], expected = Expected(r, o);
        ASSERT_TRUE(std::isnan(expected) ? std::isnan(got) : SameBits(&got, &expected, 1))
            << got << " for " << expected << ", row " << r << " of " << rows << ", output " << o
            << " of " << out << ", in " << in;
      }
    }
  }

  int rows, in, out;
  bool accumulate, biased;
  float scale;
  std::vector<uint16_t> weights;
  PackedMatrix matrix;
  std::vector<float> x, y, bias;
};

TEST(MatMulTilesTest, PiecesAreAddedInTheStatedOrder) {
  const FlushSubnormals flush;
  Random random(6);
  for (int i = 0; i < 100; ++i) {
    const Product product(&random);
    const int pairs = (product.in + 1) / 2;
    std::vector<float> packed(static_cast<size_t>(product.rows) * pairs);
    const int blocks = NumRowBlocks(product.rows, kTileRows);
    for (int b = 0; b < blocks; ++b) {
      const int row = BlockStart(b, blocks, product.rows);
      const int n = BlockStart(b + 1, blocks, product.rows) - row;
      for (int r = 0; r < n; ++r) {
        for (int k = 0; k < product.in; k += 2 * kTilePairs) {
          MatMulPlainTiles::Round(&product.x[static_cast<size_t>(row + r) * product.in + k],
                                  std::min(2 * kTilePairs, product.in - k),
                                  &packed[static_cast<size_t>(row) * pairs +
                                          StripStart(n, pairs, k / (2 * kTilePairs), r)]);
        }
      }
    }
    std::vector<float> y = product.y;
    // Panels in two parts, as threads take them.
    const MatMulOutput output = product.To(y.data());
    const int panels = product.matrix.num_panels(), half = panels / 2;
    MultiplyPanelsByTiles<MatMulPlainTiles>(packed.data(), product.rows, output, half, panels,
                                            nullptr);
    MultiplyPanelsByTiles<MatMulPlainTiles>(packed.data(), product.rows, output, 0, half, nullptr);
    product.Check(y);
    if (HasFatalFailure()) return;
  }
}

TEST(MatMulTilesTest, TheProcessorDoesTheSame) {
  const FlushSubnormals flush;
  if (!SetCpuTarget("amx").ok()) GTEST_SKIP() << "this processor has no AMX-BF16";
  Random random(7);
  for (int i = 0; i < 300; ++i) {
    const Product product(&random);
    std::vector<float> y = product.y;
    PoisonedContext context(3, product.x.size() + product.rows, 0);
    MatMul(product.x.data(), product.in, product.rows, {{product.To(y.data())}}, &context);
    product.Check(y);
    if (HasFatalFailure()) break;
  }
  ASSERT_TRUE(SetCpuTarget("auto").ok());
}

// Rows in their places, as attention multiplies them.
template <class Tiles>
void CheckInPlace(Random* random) {
  const int n = random->Int(1, 2 * kTileRows), strip = random->OneOf<int>({8, kTilePairs});
  const int pairs = strip * random->Int(1, 5);
  const StepRows rows{0, {(n + 1) / 2, n / 2}};
  const ptrdiff_t x_stride = pairs + random->Int(0, 20), y_stride = 32 + random->Int(0, 20);
  const ptrdiff_t pair_bytes = random->OneOf<int>({kTileBytes, 2 * kTileBytes});
  const bool accumulate = random->Int(0, 1) == 1;
  std::vector<uint16_t> x(2 * n * x_stride), left(pairs * pair_bytes / 2), right(left.size());
  for (std::vector<uint16_t>* values : {&x, &left, &right}) {
    for (uint16_t& bits : *values) {
      const float value = Wild(random);
      std::memcpy(&bits, reinterpret_cast<const char*>(&value) + 2, 2);
    }
  }
  std::vector<float> y(n * y_stride);
  for (float& value : y) value = random->Normal();
  std::vector<float> expected = y;
  for (int r = 0; r < n; ++r) {
    for (int o = 0; o < 2 * kTileOutputs; ++o) {
      const std::vector<uint16_t>& weights = o < kTileOutputs ? left : right;
      float& sum = expected[r * y_stride + o];
      if (!accumulate) sum = 0;
      for (int k = 0; k < pairs; k += strip) {
        float parts[2] = {0, 0};
        for (int i = 0; i < 2 * strip; ++i) {
          const ptrdiff_t pair = k + i / 2, at = pair * pair_bytes / 2 + o % kTileOutputs * 2;
          parts[i % 2] = MultiplyAdd(Value(x[2 * (r * x_stride + k) + i]),
                                     Value(weights[at + i % 2]), parts[i % 2]);
        }
        sum = Add(sum, Add(parts[0], parts[1]));
      }
    }
  }
  Tiles::Configure(ConfigOf(rows, strip));
  MultiplyInPlace<Tiles>(
      {rows, reinterpret_cast<const float*>(x.data()), x_stride, pairs, strip, y.data(), y_stride},
      {reinterpret_cast<const std::byte*>(left.data()),
       reinterpret_cast<const std::byte*>(right.data()), pair_bytes},
      accumulate);
  Tiles::Release();
  for (size_t i = 0; i < y.size(); ++i) {
    ASSERT_TRUE(std::isnan(expected[i]) ? std::isnan(y[i]) : SameBits(&y[i], &expected[i], 1))
        << y[i] << " for " << expected[i] << ", row " << i / y_stride << " of " << n << ", pairs "
        << pairs << " by " << strip;
  }
}

TEST(TilesTest, RowsInPlaceAreAddedInTheStatedOrder) {
  Random random(8);
  for (int i = 0; i < 200 && !testing::Test::HasFatalFailure(); ++i) {
    CheckInPlace<PlainTiles>(&random);
  }
}

TEST(TilesTest, TheProcessorDoesTheSameInPlace) {
  if (!SetCpuTarget("amx").ok()) GTEST_SKIP() << "this processor has no AMX-BF16";
  Random random(9);
  for (int i = 0; i < 1000 && !testing::Test::HasFatalFailure(); ++i) {
    CheckInPlace<ProcessorTiles>(&random);
  }
  ASSERT_TRUE(SetCpuTarget("auto").ok());
}

}  // namespace
}  // namespace packrat
