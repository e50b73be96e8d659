#include "kernels/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/kernels/random.h"

namespace packrat {
namespace {

TEST(RotateTest, RotatesHalves) {
  Random random(1);
  for (int dim = 2; dim <= 66; dim += 2) {
    std::vector<float> row(dim);
    BatchSpan span;
    span.num_tokens = 1;
    span.position = random.Int(0, 1000);
    BatchView batch;
    batch.spans = &span;
    batch.num_spans = batch.num_tokens = 1;
    ASSERT_TRUE(
        FillRope(batch, RopeFrequencies(10000.0, dim).data(), dim, 1, row.data(), nullptr).ok());
    const auto x = random.Normals(dim);
    GuardedFloats out(dim);
    Rotate(x.data(), row.data(), dim, out.data());
    for (int i = 0; i < dim / 2; ++i) {
      const double x1 = x[i], x2 = x[i + dim / 2], c = row[i], s = row[i + dim / 2];
      const double tolerance = 2 * kUnit * (std::fabs(x1) + std::fabs(x2));
      EXPECT_NEAR(out[i], x1 * c - x2 * s, tolerance);
      EXPECT_NEAR(out[i + dim / 2], x2 * c + x1 * s, tolerance);
    }
    EXPECT_TRUE(out.GuardsIntact());
    GuardedFloats in_place(dim);
    std::copy(x.begin(), x.end(), in_place.data());
    Rotate(in_place.data(), row.data(), dim, in_place.data());
    EXPECT_TRUE(SameBits(out.data(), in_place.data(), dim));
  }
}

// By wavelength, as the rule was published: short waves stay, long ones get `factor` times as long,
// between them the frequency goes over in a straight line.
TEST(RopeFrequenciesTest, SlowChannelsAreScaled) {
  const RopeScaling scaling = {8.0, 1.0, 4.0, 8192};
  const auto plain = RopeFrequencies(500000.0, 128);
  const auto scaled = RopeFrequencies(500000.0, 128, scaling);
  int kept = 0, between = 0, slowed = 0;
  for (int i = 0; i < 64; ++i) {
    const double wave = 2 * M_PI / plain[i];
    if (wave < 8192 / 4.0) {
      EXPECT_EQ(scaled[i], plain[i]) << i;
      ++kept;
    } else if (wave > 8192) {
      EXPECT_EQ(scaled[i], plain[i] / 8) << i;
      ++slowed;
    } else {
      const double smooth = (8192 / wave - 1) / 3;
      const double expected = (1 - smooth) * plain[i] / 8 + smooth * plain[i];
      EXPECT_NEAR(scaled[i], expected, 1e-14 * plain[i]) << i;
      ++between;
    }
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(between, 0);
  EXPECT_GT(slowed, 0);
  const auto linear = RopeFrequencies(500000.0, 128, {4.0});
  for (int i = 0; i < 64; ++i) EXPECT_EQ(linear[i], plain[i] / 4) << i;
}

}  // namespace
}  // namespace packrat
