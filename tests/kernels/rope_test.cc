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
        FillRope(batch, RopeFrequencies(10000.0, dim).data(), dim, 1, 1.0, row.data(), nullptr)
            .ok());
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

void ExpectFrequencies(const std::vector<double>& frequencies,
                       const std::vector<double>& expected) {
  ASSERT_EQ(frequencies.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(frequencies[i], expected[i], 1e-15 * expected[i]) << i;
  }
}

// What transformers computes in double precision.
TEST(RopeFrequenciesTest, ChannelsAreScaledByTheirNumber) {
  using Ramp = RopeScaling::Ramp;
  ExpectFrequencies(RopeFrequencies(10000.0, 16, {4.0, 1.0, 32.0, 32, Ramp::kWholeChannels}),
                    {1, 0.19764235376052372, 0.025, 0.0079056941504209478, 0.0025,
                     0.00079056941504209474, 0.00025, 7.9056941504209485e-05});
  ExpectFrequencies(
      RopeFrequencies(2000.0, 16, {6.5, 1.5, 8.0, 32, Ramp::kChannels}),
      {1, 0.13237498138841777, 0.023005365864941854, 0.0088961151349480159, 0.0034401045807689067,
       0.0013302794924648167, 0.00051441561921263229, 0.00019892318177408474});
  // Fast and slow at once: an end is moved, by as much as there.
  ExpectFrequencies(RopeFrequencies(10000.0, 16, {4.0, 1.0, 1.0, 32, Ramp::kChannels}),
                    {1, 0.31622776601683794, 0.025, 0.0079056941504209478, 0.0025,
                     0.00079056941504209474, 0.00025, 7.9056941504209485e-05});
  // Ends beyond the head's channels: one that is never fast, and one that is never slow.
  const auto plain = RopeFrequencies(10000.0, 16);
  for (const int context : {1, 1 << 30}) {
    ExpectFrequencies(RopeFrequencies(10000.0, 16, {4.0, 1.0, 32.0, context, Ramp::kWholeChannels}),
                      plain);
  }
  ExpectFrequencies(
      RopeFrequencies(1.5, 16, {4.0, 1.0, 32.0, 32, Ramp::kWholeChannels}),
      {1, 0.90305083370643369, 0.81324180324886042, 0.73010395925670868, 0.65319726474218098,
       0.58210888273044925, 0.51645156252681668, 0.4558621190537458});
}

// transformers 5.24's _compute_longrope_parameters, in double precision.
TEST(RopeFrequenciesTest, ChannelsAreDividedEachByItsOwn) {
  RopeScaling scaling;
  scaling.divisors = {1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0};
  scaling.longest = 64;
  ExpectFrequencies(RopeFrequencies(10000.0, 16, scaling),
                    {1.0, 0.25298221281347033, 0.06666666666666667, 0.015811388300841896, 0.004,
                     0.0010540925533894597, 0.00028571428571428574, 7.905694150420948e-05});
}

}  // namespace
}  // namespace packrat
