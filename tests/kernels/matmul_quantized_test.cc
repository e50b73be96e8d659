// MatMul() with quantised weights, of which tests/kernels/quantized_test.cc has the parts.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/matmul.h"
#include "kernels/quantized.h"
#include "tests/kernels/random.h"

namespace packrat {
namespace {

constexpr DType kFormats[] = {DType::kInt8, DType::kInt4};

// A product of random operands, and what it should be, bit by bit.
struct Case {
  DType format;
  Arithmetic arithmetic;
  int rows, in, out;
  ptrdiff_t x_stride, y_stride;
  PackedMatrix weight;
  std::vector<float> x, bias, before;
  bool accumulate;
  float scale;
  GuardedFloats y;

  Case(Random* random, DType type, Arithmetic multiplied_in, int num_rows)
      : format(type),
        arithmetic(multiplied_in),
        rows(num_rows),
        in(32 * (num_rows > 6 ? random->Int(1, 40) : random->Int(1, 6))),
        out(num_rows > 26 ? random->Int(400, 600) : random->Int(1, 100)),
        x_stride(in + random->Int(0, 3)),
        y_stride(out + random->Int(0, 5)),
        weight(type, multiplied_in, out, in),
        x(random->Normals(rows * x_stride)),
        before(random->Normals(static_cast<size_t>(rows) * out)),
        accumulate(random->Int(0, 1) == 1),
        scale(random->OneOf<float>({1.0f, 0.3f})),
        y(rows * y_stride) {
    for (int o = 0; o < out; ++o) {
      const std::vector<float> row = random->Normals(in, 0.1f, 0.02f);
      for (int g = 0; g < in / kQuantGroup; ++g) {
        QuantGroup group;
        EXPECT_TRUE(QuantizeGroup(&row[g * kQuantGroup], format, &group).ok());
        weight.SetGroup(o, g, group);
      }
    }
    if (random->Int(0, 1) == 1) bias = random->Normals(out);
    for (int r = 0; r < rows; ++r) {  // Between the rows of x lies poison; after the last, nothing.
      std::fill(x.begin() + r * x_stride + in, x.begin() + (r + 1) * x_stride, kNaN);
    }
    x.resize((rows - 1) * x_stride + in);
    x.shrink_to_fit();
  }

  void Run(int threads) {
    PoisonedContext context(threads, static_cast<size_t>(rows) * in, MatMulScratchFloats(in));
    y.Poison();
    for (int r = 0; accumulate && r < rows; ++r) {
      std::copy_n(&before[static_cast<size_t>(r) * out], out, y.data() + r * y_stride);
    }
    MatMul(x.data(), x_stride, rows,
           {{&weight, y.data(), y_stride, bias.empty() ? nullptr : bias.data(), accumulate, scale}},
           &context);
  }

  // Row r alone, before bias and the old value: of int8 the kernel that all others must equal, else
  // a matrix that holds the same weights in float32.
  std::vector<float> Alone(int r) const {
    std::vector<float> sums(static_cast<size_t>(weight.num_panels()) * kQuantPanel);
    const float* row = x.data() + r * x_stride;
    if (arithmetic == Arithmetic::kInt8) {
      std::vector<int32_t> words(QuantRowBytes(in) / 4);
      QuantizeRows(row, 0, 1, in, words.data());
      for (int p = 0; p < weight.num_panels(); ++p) {
        ChosenQuantKernels().multiply(format, words.data(), 1, weight.panel(p), in, true,
                                      &sums[p * kQuantPanel]);
      }
      return sums;
    }
    std::vector<float> wide(static_cast<size_t>(out) * in);
    for (int o = 0; o < out; ++o) weight.CopyRow(o, &wide[static_cast<size_t>(o) * in]);
    const PackedMatrix same(wide.data(), DType::kF32, Arithmetic::kFloat32, out, in);
    PoisonedContext context(1, in, 0);
    MatMul(row, in, 1, {{&same, sums.data(), out}}, &context);
    return sums;
  }

  void ExpectRight() {
    for (int r = 0; r < rows; ++r) {
      std::vector<float> expected = Alone(r);
      for (int o = 0; o < out; ++o) {
        if (!bias.empty()) expected[o] = expected[o] + bias[o];
        expected[o] *= scale;
        if (accumulate) expected[o] = expected[o] + before[static_cast<size_t>(r) * out + o];
      }
      ASSERT_TRUE(SameBits(y.data() + r * y_stride, expected.data(), out)) << "row " << r;
      ASSERT_TRUE(y.Unwritten(r * y_stride + out, (r + 1) * y_stride)) << "between the rows";
    }
    ASSERT_TRUE(y.GuardsIntact());
  }
};

template <class Body>
void ForEachCase(uint64_t seed, const std::vector<int>& all_rows, const Body& body) {
  Random random(seed);
  for (const DType format : kFormats) {
    for (const Arithmetic arithmetic : {Arithmetic::kFloat32, Arithmetic::kInt8}) {
      for (const int rows : all_rows) {
        Case c(&random, format, arithmetic, rows);
        SCOPED_TRACE(testing::Message()
                     << DTypeName(format) << (arithmetic == Arithmetic::kInt8 ? " in int8" : "")
                     << " rows " << rows << " in " << c.in << " out " << c.out);
        body(&c);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

std::vector<int> UpTo(int n) {
  std::vector<int> all(n);
  std::iota(all.begin(), all.end(), 1);
  return all;
}

TEST(MatMulQuantizedTest, EveryRowHasTheBitsThatItHasAlone) {
  std::vector<int> all_rows = UpTo(26);
  for (const int many : {29, 31, 43, 47, 97}) all_rows.push_back(many);  // Of int4, spread.
  ForEachCase(1, all_rows, [](Case* c) {
    ForEachCpu([&](int threads) {
      c->Run(threads);
      c->ExpectRight();
    });
  });
}

TEST(MatMulQuantizedTest, NaNStaysInItsRow) {
  ForEachCase(2, UpTo(8), [](Case* c) {
    ForEachCpu([&](int threads) {
      c->Run(threads);
      const GuardedFloats clean = c->y;
      const int bad = c->rows / 2;
      float& poisoned = c->x[bad * c->x_stride + c->in / 2];
      const float kept = std::exchange(poisoned, kNaN);
      c->Run(threads);
      poisoned = kept;
      for (int r = 0; r < c->rows; ++r) {
        const float *was = clean.data() + r * c->y_stride, *is = c->y.data() + r * c->y_stride;
        if (r != bad) {
          EXPECT_TRUE(SameBits(was, is, c->out)) << "row " << r;
        } else {
          for (int o = 0; o < c->out; ++o) EXPECT_TRUE(std::isnan(is[o])) << "output " << o;
        }
      }
    });
  });
}

// Weights of several formats beside each other share one x.
TEST(MatMulQuantizedTest, FormatsMayBeMixed) {
  Random random(3);
  for (const int rows : {1, 7}) {
    std::vector<Case> cases;
    for (const DType format : kFormats) {
      cases.emplace_back(&random, format, Arithmetic::kInt8, rows);
    }
    Case& a = cases[0];
    Case& b = cases[1];
    while (b.in != a.in) b = Case(&random, DType::kInt4, Arithmetic::kInt8, rows);
    b.x = a.x, b.x_stride = a.x_stride;
    a.accumulate = b.accumulate = false;
    a.scale = b.scale = 1.0f;
    ForEachCpu([&](int threads) {
      PoisonedContext context(threads, static_cast<size_t>(rows) * a.in, MatMulScratchFloats(a.in));
      a.y.Poison(), b.y.Poison();
      const auto bias = [](const Case& c) { return c.bias.empty() ? nullptr : c.bias.data(); };
      MatMul(a.x.data(), a.x_stride, rows,
             {{&a.weight, a.y.data(), a.y_stride, bias(a)},
              {&b.weight, b.y.data(), b.y_stride, bias(b)}},
             &context);
      a.ExpectRight();
      b.ExpectRight();
    });
  }
}

TEST(PackedMatrixQuantizedTest, CopyRowReturnsTheRow) {
  Random random(4);
  for (const DType format : kFormats) {
    const int out = 70, in = 96;
    PackedMatrix weight(format, Arithmetic::kInt8, out, in);
    EXPECT_EQ(weight.bytes(), 3 * QuantPanelBytes(format, in));
    std::vector<QuantGroup> groups;
    for (int o = 0; o < out; ++o) {
      for (int g = 0; g < 3; ++g) {
        const std::vector<float> values = random.Normals(32);
        ASSERT_TRUE(QuantizeGroup(values.data(), format, &groups.emplace_back()).ok());
        weight.SetGroup(o, g, groups.back());
      }
    }
    for (int o = 0; o < out; ++o) {
      GuardedFloats row(in);
      weight.CopyRow(o, row.data());
      for (int g = 0; g < 3; ++g) {
        float wide[kQuantGroup];
        WidenQuantGroup(groups[o * 3 + g], format, wide);
        EXPECT_TRUE(SameBits(row.data() + g * kQuantGroup, wide, kQuantGroup));
      }
      EXPECT_TRUE(row.GuardsIntact());
    }
  }
}

}  // namespace
}  // namespace packrat
