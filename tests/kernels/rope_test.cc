#include "kernels/rope.h"

#include <gtest/gtest.h>

#include "tests/kernels/random.h"

namespace packrat {
namespace {

// An angle in double precision: the frequency is good to a few units in its last place, times the
// position; then one rounding to float32 of a value of at most one.
double TableTolerance(double angle) { return kUnit / 2 + 8 * 0x1p-53 * std::fabs(angle); }

TEST(RopeTableTest, CosinesAndSinesAtAnyPosition) {
  for (const double base : {10000.0, 500000.0, 10.0}) {
    for (const int dim : {2, 6, 64, 130}) {
      for (const int divisor : {1, 3, 16}) {
        RopeTable table(base, dim, divisor, 3);
        EXPECT_TRUE(table.Is(base, dim, divisor));
        EXPECT_FALSE(table.Is(base, dim, divisor + 1));
        EXPECT_FALSE(table.Is(base, dim + 2, divisor));
        EXPECT_FALSE(table.Is(base + 1, dim, divisor));
        for (const int64_t position : {0, 1, 2, 3, 15, 16, 17, 4095, 1000000}) {
          table.Set(1, position);
          const int64_t index = position / divisor;
          for (int i = 0; i < dim / 2; ++i) {
            const long double angle = static_cast<long double>(index) /
                                      std::pow(static_cast<long double>(base), 2.0L * i / dim);
            const double tolerance = TableTolerance(static_cast<double>(angle));
            ASSERT_NEAR(table.row(1)[i], static_cast<double>(std::cos(angle)), tolerance);
            ASSERT_NEAR(table.row(1)[dim / 2 + i], static_cast<double>(std::sin(angle)), tolerance);
          }
          for (int i = 0; i < dim; ++i) {
            ASSERT_EQ(table.row(0)[i], 0.0f) << "a neighbour's row";
            ASSERT_EQ(table.row(2)[i], 0.0f) << "a neighbour's row";
          }
        }
      }
    }
  }
}

TEST(RotateTest, RotatesHalves) {
  Random random(1);
  for (int dim = 2; dim <= 66; dim += 2) {
    RopeTable table(10000.0, dim, 1, 1);
    table.Set(0, random.Int(0, 1000));
    const float* row = table.row(0);
    const auto x = random.Normals(dim);
    GuardedFloats out(dim);
    Rotate(x.data(), row, dim, out.data());
    for (int i = 0; i < dim / 2; ++i) {
      const double x1 = x[i], x2 = x[i + dim / 2], c = row[i], s = row[i + dim / 2];
      const double tolerance = 2 * kUnit * (std::fabs(x1) + std::fabs(x2));
      EXPECT_NEAR(out[i], x1 * c - x2 * s, tolerance);
      EXPECT_NEAR(out[i + dim / 2], x2 * c + x1 * s, tolerance);
    }
    EXPECT_TRUE(out.GuardsIntact());
    GuardedFloats in_place(dim);
    std::copy(x.begin(), x.end(), in_place.data());
    Rotate(in_place.data(), row, dim, in_place.data());
    EXPECT_TRUE(SameBits(out.data(), in_place.data(), dim));
  }
}

}  // namespace
}  // namespace packrat
