// Products by tiles. Few processors have them, so what is around the instruction is held against a
// plain reference with tiles that are computed here, as Intel's reference states them; and where
// the processor has tiles, its own against these.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu_target.h"
#include "kernels/matmul.h"
#include "kernels/matmul_tiles-inl.h"
#include "tests/kernels/random.h"
#include "tests/kernels/reference.h"

namespace packrat {
namespace {

float Flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }
float Add(float a, float b) { return Flushed(Flushed(a) + Flushed(b)); }
float MultiplyAdd(float x, float w, float sum) {
  return Flushed(std::fma(Flushed(x), Flushed(w), sum));
}
float Value(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// Tiles in memory. Whatever the configuration does not allow ends the test.
class PlainTiles {
 public:
  static void Configure(const TileConfig& config) {
    ASSERT_EQ(config.palette, 1);
    config_ = config;
    for (auto& tile : tiles_) tile.fill(0);
  }
  template <TileRegister kTile>
  static void Zero() {
    ASSERT_GT(config_.rows[kTile], 0) << kTile;
    tiles_[kTile].fill(0);
  }
  template <TileRegister kTile>
  static void Load(const void* from, ptrdiff_t stride) {
    ASSERT_GT(config_.rows[kTile], 0) << kTile;
    tiles_[kTile].fill(0);
    for (int r = 0; r < config_.rows[kTile]; ++r) {
      std::memcpy(&tiles_[kTile][r * kTileBytes], static_cast<const char*>(from) + r * stride,
                  config_.row_bytes[kTile]);
    }
  }
  template <TileRegister kSums, TileRegister kInputs, TileRegister kWeights>
  static void MultiplyAdd() {
    const int rows = config_.rows[kSums], pairs = config_.row_bytes[kInputs] / 4;
    ASSERT_EQ(config_.rows[kInputs], rows);
    ASSERT_EQ(config_.rows[kWeights], pairs);
    ASSERT_EQ(config_.row_bytes[kSums], config_.row_bytes[kWeights]);
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < config_.row_bytes[kSums] / 4; ++c) {
        float parts[2] = {0, 0};
        for (int k = 0; k < pairs; ++k) {
          for (int i = 0; i < 2; ++i) {
            parts[i] = packrat::MultiplyAdd(At<uint16_t>(kInputs, r, 2 * k + i),
                                            At<uint16_t>(kWeights, k, 2 * c + i), parts[i]);
          }
        }
        float sum;
        char* const place = &tiles_[kSums][r * kTileBytes + 4 * c];
        std::memcpy(&sum, place, 4);
        sum = Add(sum, Add(parts[0], parts[1]));
        std::memcpy(place, &sum, 4);
      }
    }
  }
  template <TileRegister kTile>
  static void Store(float* to, ptrdiff_t stride) {
    for (int r = 0; r < config_.rows[kTile]; ++r) {
      std::memcpy(reinterpret_cast<char*>(to) + r * stride, &tiles_[kTile][r * kTileBytes],
                  config_.row_bytes[kTile]);
    }
  }
  static void Finish(const StepSums& sums, const StepRows& rows, const MatMulOutput& output,
                     int panel, float* y, ptrdiff_t y_stride) {
    const int first = panel * PackedMatrix::kPanel;
    for (int r = 0; r < rows.size(); ++r) {
      for (int c = 0; c < PackedMatrix::kPanel && first + c < output.weight->out(); ++c) {
        float sum = sums.row(rows, r, c / kTileOutputs)[c % kTileOutputs];
        if (output.bias != nullptr) sum += output.bias[first + c];
        sum *= output.scale;
        float* const to = y + r * y_stride + c;
        *to = output.accumulate ? sum + *to : sum;
      }
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
  static void Release() { config_ = TileConfig(); }

 private:
  template <class T>
  static float At(int tile, int row, int column) {
    T bits;
    std::memcpy(&bits, &tiles_[tile][row * kTileBytes + column * sizeof(T)], sizeof bits);
    return Value(bits);
  }

  inline static TileConfig config_;
  inline static std::array<std::array<char, kTileRows * kTileBytes>, 8> tiles_;
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
          PlainTiles::Round(&product.x[static_cast<size_t>(row + r) * product.in + k],
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
    MultiplyPanelsByTiles<PlainTiles>(packed.data(), product.rows, output, half, panels);
    MultiplyPanelsByTiles<PlainTiles>(packed.data(), product.rows, output, 0, half);
    product.Check(y);
    if (HasFatalFailure()) return;
  }
}

TEST(MatMulTilesTest, TheProcessorDoesTheSame) {
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

}  // namespace
}  // namespace packrat
