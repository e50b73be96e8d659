#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>

#include "tests/kernels/random.h"
#include "tests/kernels/reference.h"

namespace packrat {
namespace {

struct Format {
  DType type;
  Arithmetic arithmetic;
};

// What this machine can multiply.
std::vector<Format> Formats() {
  std::vector<Format> formats;
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    formats.push_back({type, Arithmetic::kFloat32});
  }
  if (CpuHasBFloat16()) formats.push_back({DType::kBF16, Arithmetic::kBFloat16});
  return formats;
}

// One product with its operands.
struct Product {
  PackedMatrix weight;
  std::vector<float> values;  // (out, in), read back by CopyRow().
  std::vector<float> bias, before;
  bool accumulate;
  float scale;
  ptrdiff_t stride;
  GuardedFloats y;

  Product(Random* random, int rows, int in, int out)
      : values(static_cast<size_t>(out) * in),
        accumulate(random->Int(0, 1) == 1),
        scale(random->OneOf<float>({1.0f, 0.3f, -7.0f})),
        stride(out + random->Int(0, 5)),
        y(static_cast<size_t>(stride) * rows) {
    std::vector<char> storage;
    static const std::vector<Format> formats = Formats();
    const auto [type, arithmetic] = random->OneOf(formats);
    weight = PackedMatrix(RandomWeights(random, type, values.size(), &storage), type, arithmetic,
                          out, in);
    for (int o = 0; o < out; ++o) weight.CopyRow(o, values.data() + static_cast<size_t>(o) * in);
    if (random->Int(0, 1) == 1) bias = random->Normals(out);
    before = random->Normals(static_cast<size_t>(rows) * out);
  }
  // As before any product: poison, or what is to be added to.
  void Reset(int rows) {
    y.Poison();
    for (int r = 0; accumulate && r < rows; ++r) {
      std::copy_n(before.data() + static_cast<size_t>(r) * weight.out(), weight.out(),
                  y.data() + r * stride);
    }
  }
  MatMulOutput output(int row = 0) {
    return {&weight,    y.data() + row * stride,
            stride,     bias.empty() ? nullptr : bias.data(),
            accumulate, scale};
  }
  // A float32 sum of n terms in any order is within n units of the sum of their magnitudes; beside
  // the products there are their own rounding (without FMA), the bias, the scale and the old value.
  void ExpectRight(const std::vector<float>& x, ptrdiff_t x_stride, int rows) {
    const int in = weight.in(), out = weight.out();
    const Storage stored{weight.arithmetic() == Arithmetic::kBFloat16};  // x, as multiplied.
    for (int r = 0; r < rows; ++r) {
      for (int o = 0; o < out; ++o) {
        double sum = 0, magnitude = 0;
        const auto add = [&](double term) { sum += term, magnitude += std::fabs(term); };
        for (int k = 0; k < in; ++k) {
          add(double{stored(x[r * x_stride + k])} * values[static_cast<size_t>(o) * in + k]);
        }
        if (!bias.empty()) add(bias[o]);
        sum *= scale, magnitude *= std::fabs(scale);
        if (accumulate) add(before[static_cast<size_t>(r) * out + o]);
        ASSERT_NEAR(y[r * stride + o], sum, (in + 4) * kUnit * magnitude)
            << "row " << r << " output " << o << " " << DTypeName(weight.type()) << " in "
            << ArithmeticName(weight.arithmetic());
      }
      ASSERT_TRUE(y.Unwritten(r * stride + out, (r + 1) * stride)) << "written between the rows";
    }
    ASSERT_TRUE(y.GuardsIntact());
  }
};

struct Case {
  int rows, in;
  ptrdiff_t x_stride;
  std::vector<float> x;
  std::vector<std::unique_ptr<Product>> products;

  Case(Random* random, int num_rows)
      : rows(num_rows),
        in(random->Int(1, random->Int(0, 3) == 0 ? 600 : 40)),
        x_stride(in + random->Int(0, 3)),
        x(random->Normals(static_cast<size_t>(rows) * x_stride)) {
    const int count = random->Int(1, 3);
    for (int i = 0; i < count; ++i) {
      products.push_back(std::make_unique<Product>(random, rows, in, random->Int(1, 100)));
    }
    for (int r = 0; r < rows; ++r) {  // Between the rows of x lies poison; after the last, nothing.
      std::fill(x.begin() + r * x_stride + in, x.begin() + (r + 1) * x_stride, kNaN);
    }
    x.resize((rows - 1) * x_stride + in);
    x.shrink_to_fit();
  }
  void Run(int threads) {
    PoisonedContext context(threads, static_cast<size_t>(rows) * in, 0);
    std::vector<MatMulOutput> outputs;
    for (auto& product : products) {
      product->Reset(rows);
      outputs.push_back(product->output());
    }
    MatMul(x.data(), x_stride, rows, outputs, &context);
  }
};

// The last are more than share weights that are widened for several.
std::vector<int> AllRows() {
  std::vector<int> rows(40);
  std::iota(rows.begin(), rows.end(), 1);
  for (const int more : {97, 193, 200, 400}) rows.push_back(more);
  return rows;
}

TEST(MatMulTest, MeetsTheReference) {
  Random random(1);
  const std::vector<int> rows = AllRows();
  for (size_t i = 0; i < 3 * rows.size(); ++i) {
    Case c(&random, rows[i % rows.size()]);
    SCOPED_TRACE(testing::Message() << "rows " << c.rows << " in " << c.in);
    ForEachCpu([&](int threads) {
      c.Run(threads);
      for (auto& product : c.products) product->ExpectRight(c.x, c.x_stride, c.rows);
    });
    if (HasFatalFailure()) return;
  }
}

TEST(MatMulTest, ARowAloneHasTheBitsOfTheRowInCompany) {
  Random random(2);
  for (const int rows : AllRows()) {
    Case c(&random, rows);
    ForEachCpu([&](int threads) {
      c.Run(threads);
      PoisonedContext context(threads, static_cast<size_t>(rows) * c.in, 0);
      for (auto& product : c.products) {
        const GuardedFloats together = product->y;
        product->Reset(rows);
        for (int r = 0; r < rows; ++r) {
          MatMul(c.x.data() + r * c.x_stride, c.x_stride, 1, {product->output(r)}, &context);
        }
        EXPECT_TRUE(SameBits(together.data(), product->y.data(), together.size()));
      }
    });
  }
}

TEST(MatMulTest, RowsThatAreMadeAreMultipliedAsThoseInMemory) {
  Random random(9);
  for (int rows = 1; rows <= 40; ++rows) {
    Case c(&random, rows);
    ForEachCpu([&](int threads) {
      c.Run(threads);
      PoisonedContext context(threads, static_cast<size_t>(rows) * c.in, MatMulScratchFloats(c.in));
      for (auto& product : c.products) {
        const GuardedFloats expected = product->y;
        product->Reset(rows);
        const auto make = [&](int row, float* to) {
          std::copy_n(c.x.data() + row * c.x_stride, c.in, to);
        };
        MatMul(make, rows, {product->output()}, &context);
        EXPECT_TRUE(SameBits(expected.data(), product->y.data(), expected.size()));
      }
    });
  }
}

// A gated unit between two products in one go: the bits of the three operations.
TEST(MatMulTest, GluBetweenProductsHasTheirBits) {
  if (!CpuHasBFloat16()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  Random random(10);
  std::vector<char> storage;
  const auto weight = [&](int out, int in, Arithmetic arithmetic) {
    const auto n = static_cast<size_t>(out) * in;
    return PackedMatrix(RandomWeights(&random, DType::kBF16, n, &storage), DType::kBF16, arithmetic,
                        out, in);
  };
  for (int rows = 1; rows <= 40; ++rows) {
    const int in = random.Int(1, 80), width = 32 * random.Int(1, 4), out = random.Int(1, 70);
    const PackedMatrix up = weight(2 * width, in, Arithmetic::kBFloat16),
                       down = weight(out, width, Arithmetic::kBFloat16);
    const auto x = random.Normals(static_cast<size_t>(rows) * in);
    const auto bias = random.Normals(2 * width), down_bias = random.Normals(out);
    const auto before = random.Normals(static_cast<size_t>(rows) * out);
    const Gating gating{random.OneOf<GateFunction>({GateFunction::kSilu, GateFunction::kGeluTanh}),
                        random.OneOf<float>({1.0f, 0.3f})};
    const auto make = [&](int row, float* to) {
      std::copy_n(x.data() + static_cast<size_t>(row) * in, in, to);
    };
    ForEachCpu([&](int threads) {
      const int widest = std::max(in, width);
      PoisonedContext context(threads, static_cast<size_t>(rows) * (in + width + 1),
                              MatMulScratchFloats(widest));
      std::vector<float> gate_up(static_cast<size_t>(rows) * 2 * width),
          h(static_cast<size_t>(rows) * width), y(static_cast<size_t>(rows) * out);
      for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
        MatMul(make, rows, {{&up, gate_up.data(), 2 * width, b}}, &context);
        ASSERT_TRUE(Glu(gating, gate_up.data(), rows, width, h.data(), DType::kF32, &context).ok());
        // As the layer stack asks for it: added to what is there, and alone.
        for (const bool accumulate : {false, true}) {
          GuardedFloats found(y.size());
          found.Poison();
          if (accumulate) std::copy(before.begin(), before.end(), found.data());
          y = before;
          MatMulOutput output = {&down, y.data(), out};
          if (accumulate) output.bias = down_bias.data();
          output.accumulate = accumulate;
          output.scale = gating.scale;
          MatMul(h.data(), width, rows, {output}, &context);
          output.y = found.data();
          ASSERT_TRUE(GluMatMul(make, rows, {&up, b, &gating}, output, &context));
          EXPECT_TRUE(SameBits(found.data(), y.data(), y.size())) << rows << " rows of " << in;
          EXPECT_TRUE(found.GuardsIntact());
        }
      }
    });
  }
  // What it does not do, it leaves alone.
  const Gating gating;
  PoisonedContext context(1, 1000, 1000);
  const auto make = [](int, float*) { FAIL(); };
  for (const auto& [width, arithmetic] :
       {std::pair(48, Arithmetic::kBFloat16), {64, Arithmetic::kFloat32}}) {
    const PackedMatrix up = weight(2 * width, 8, arithmetic), down = weight(8, width, arithmetic);
    float y[8];
    EXPECT_FALSE(GluMatMul(make, 1, {&up, nullptr, &gating}, {&down, y, 8}, &context));
  }
}

TEST(MatMulTest, NaNStaysInItsRow) {
  Random random(3);
  for (const int rows : {2, 7, 12, 30}) {
    Case c(&random, rows);
    ForEachCpu([&](int threads) {
      c.Run(threads);
      std::vector<GuardedFloats> clean;
      for (auto& product : c.products) clean.push_back(product->y);
      const int bad = rows / 2;
      float& poisoned = c.x[bad * c.x_stride + c.in / 2];
      const float kept = std::exchange(poisoned, kNaN);
      c.Run(threads);
      poisoned = kept;
      for (size_t i = 0; i < clean.size(); ++i) {
        Product& product = *c.products[i];
        for (int r = 0; r < rows; ++r) {
          const float *was = clean[i].data() + r * product.stride,
                      *is = product.y.data() + r * product.stride;
          if (r != bad) {
            EXPECT_TRUE(SameBits(was, is, product.weight.out())) << "row " << r;
            continue;
          }
          for (int o = 0; o < product.weight.out(); ++o) EXPECT_TRUE(std::isnan(is[o]));
        }
      }
    });
  }
}

TEST(MatMulTest, NoRows) {
  Random random(4);
  Case c(&random, 1);
  PoisonedContext context(1, 0, 0);
  c.products[0]->y.Poison();
  MatMul(c.x.data(), c.x_stride, 0, {c.products[0]->output()}, &context);
  EXPECT_TRUE(c.products[0]->y.Unwritten(0, c.products[0]->y.size()));
}

// What a half means, from its definition.
double HalfValue(uint16_t half, DType type) {
  const int mantissa_bits = type == DType::kBF16 ? 7 : 10;
  const int bias = type == DType::kBF16 ? 127 : 15;
  const int exponent = (half & 0x7fff) >> mantissa_bits;
  const int mantissa = half & ((1 << mantissa_bits) - 1);
  const double sign = half & 0x8000 ? -1 : 1;
  if (exponent == 2 * bias + 1) return mantissa != 0 ? kNaN : sign * kInfinity;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

// Every one of the 65,536 halves, subnormals, infinities and NaNs too, through every way to read a
// weight.
TEST(MatMulTest, EveryHalfIsWidenedExactly) {
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  for (const DType type : {DType::kBF16, DType::kF16}) {
    const PackedMatrix weight(halves.data(), type, Arithmetic::kFloat32, 65536, 1);
    GuardedFloats y(2 * 65536), row(1);
    ForEachCpu([&](int threads) {
      PoisonedContext context(threads, 2, 0);
      const float ones[] = {1.0f, 1.0f};
      y.Poison();
      MatMul(ones, 1, 2, {{&weight, y.data(), 65536}}, &context);
      for (int i = 0; i < 65536; ++i) {
        const double expected = HalfValue(halves[i], type);
        weight.CopyRow(i, row.data());
        // Products know no float32 below 2^-126 (kernels/flush_subnormals.h).
        const double multiplied = std::fabs(expected) < 0x1p-126 ? 0 : expected;
        for (const auto& [value, wanted] :
             {std::pair(LoadAsFloat(halves.data(), i, type), expected),
              {row[0], expected},
              {y[i], multiplied},
              {y[65536 + i], multiplied}}) {
          if (std::isnan(wanted)) {
            ASSERT_TRUE(std::isnan(value)) << DTypeName(type) << " " << i;
          } else {
            ASSERT_EQ(value, wanted) << DTypeName(type) << " " << i;
          }
        }
      }
      EXPECT_TRUE(row.GuardsIntact());
    });
  }
}

TEST(PackedMatrixTest, CopyRowReturnsTheRow) {
  Random random(5);
  for (int i = 0; i < 60; ++i) {
    const int out = random.Int(1, 100), in = random.Int(1, 50);
    for (const auto& [type, arithmetic] : Formats()) {
      std::vector<char> storage;
      const void* rows = RandomWeights(&random, type, static_cast<size_t>(out) * in, &storage);
      const PackedMatrix weight(rows, type, arithmetic, out, in);
      EXPECT_EQ(weight.out(), out);
      EXPECT_EQ(weight.in(), in);
      EXPECT_EQ(weight.type(), type);
      const int padded = arithmetic == Arithmetic::kBFloat16 ? (in + 1) / 2 * 2 : in;
      EXPECT_EQ(weight.arithmetic(), arithmetic);
      EXPECT_EQ(weight.bytes(), (out + 31) / 32 * 32u * padded * DTypeBytes(type));
      std::vector<char> aligned(storage.begin() + 1, storage.end());
      for (int o = 0; o < out; ++o) {
        GuardedFloats row(in);
        weight.CopyRow(o, row.data());
        for (int k = 0; k < in; ++k) {
          const float expected = LoadAsFloat(aligned.data(), static_cast<size_t>(o) * in + k, type);
          ASSERT_EQ(row[k], expected);
        }
        ASSERT_TRUE(row.GuardsIntact());
      }
    }
  }
}

}  // namespace
}  // namespace packrat
