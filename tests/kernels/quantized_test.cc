#include "kernels/quantized.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "tests/kernels/quantized_groups.h"
#include "tests/kernels/random.h"

namespace packrat {
namespace {

// Of a float16: its largest relative rounding, and half the distance of its smallest numbers.
constexpr double kHalfUnit = 0x1p-11, kHalfLeast = 0x1p-25;

using Values = std::array<float, kQuantGroup>;

Values RandomGroup(Random* random) {
  Values values;
  const float scale = std::ldexp(1.0f, random->Int(-30, 6)), shift = random->Normal() * scale;
  for (float& value : values) value = random->Normal() * scale + (random->Int(0, 3) ? 0 : shift);
  if (random->Int(0, 3) == 0) values[random->Int(0, 31)] *= 8;
  return values;
}

// An element of a quantised type has no size of its own, and other types have no groups.
TEST(QuantizedDeathTest, SizesOfTheWrongKind) {
  for (const DType type : {DType::kInt8, DType::kInt4}) {
    float value = 1.0f;
    EXPECT_DEATH(DTypeBytes(type), "has no size of its own");
    EXPECT_DEATH(value = LoadAsFloat(&value, 0, type), "check failed");
  }
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
    EXPECT_DEATH(StoredGroupBytes(type), "IsQuantized");
  }
}

TEST(QuantizeGroupTest, Int8IsWithinHalfAScale) {
  Random random(1);
  for (int i = 0; i < 5000; ++i) {
    const Values values = RandomGroup(&random);
    QuantGroup group;
    ASSERT_TRUE(QuantizeGroup(values.data(), DType::kInt8, &group).ok());
    double largest = 0;
    for (const float value : values) largest = std::fmax(largest, std::fabs(value));
    // Rounded up, by one step of a float16 at most.
    const double scale = Half(group.scale);
    ASSERT_LE(scale, largest / 127 * (1 + 2 * kHalfUnit) + 2 * kHalfLeast);
    for (int k = 0; k < kQuantGroup; ++k) {
      ASSERT_NEAR(scale * group.q[k], values[k], scale / 2 * (1 + 256 * kUnit)) << k;
      ASSERT_GE(group.q[k], -127);
    }
  }
}

// Least squares can only be better than the grid that spans the group's range, until scale and
// minimum are rounded to float16.
TEST(QuantizeGroupTest, Int4IsNoWorseThanTheGridOfItsRange) {
  Random random(2);
  for (int i = 0; i < 5000; ++i) {
    const Values values = RandomGroup(&random);
    QuantGroup group;
    ASSERT_TRUE(QuantizeGroup(values.data(), DType::kInt4, &group).ok());
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    const double step = (double{*high} - *low) / 15;
    double grid = 0, error = 0;
    for (int k = 0; k < kQuantGroup; ++k) {
      const double off = values[k] - (*low + step * std::nearbyint((values[k] - *low) / step));
      grid += off * off;
      ASSERT_GE(group.q[k], 0);
      ASSERT_LE(group.q[k], 15);
      error += std::pow(values[k] - (Half(group.scale) * group.q[k] + Half(group.minimum)), 2);
    }
    const double scale = std::fabs(Half(group.scale)), minimum = std::fabs(Half(group.minimum));
    const double each = 15 * (scale * kHalfUnit + kHalfLeast) + minimum * kHalfUnit + kHalfLeast;
    // Float32 sums of 32 terms lose less than 2^-16 of that grid's magnitudes.
    const double sums = 0x1p-16 * std::fmax(std::fabs(*low), std::fabs(*high));
    ASSERT_LE(std::sqrt(error), std::sqrt(grid) + std::sqrt(32.0) * (each + sums)) << i;
  }
}

TEST(QuantizeGroupTest, AnOutlierIsClippedWhereThatIsBetter) {
  Values values;
  for (int k = 0; k < kQuantGroup; ++k) values[k] = static_cast<float>(k % 16);
  values[0] = 15.9f;
  QuantGroup group;
  ASSERT_TRUE(QuantizeGroup(values.data(), DType::kInt4, &group).ok());
  double error = 0, grid = 0;
  const double step = 15.9 / 15;
  for (int k = 0; k < kQuantGroup; ++k) {
    error += std::pow(values[k] - (Half(group.scale) * group.q[k] + Half(group.minimum)), 2);
    grid += std::pow(values[k] - step * std::nearbyint(values[k] / step), 2);
  }
  EXPECT_LT(error, grid / 2);
}

TEST(QuantizeGroupTest, EqualValuesAreKept) {
  for (const float value : {0.0f, 1.0f, -0.375f, 1024.0f}) {
    Values values;
    values.fill(value);
    for (const DType format : kFormats) {
      QuantGroup group;
      ASSERT_TRUE(QuantizeGroup(values.data(), format, &group).ok());
      Values wide;
      WidenQuantGroup(group, format, wide.data());
      for (const float is : wide) {
        EXPECT_NEAR(is, value, format == DType::kInt4 ? 0 : std::fabs(value) / 127 / 2);
      }
    }
  }
}

// So near to one another that a float cannot divide by their distance.
TEST(QuantizeGroupTest, TinyValuesAreKeptAsNothing) {
  Values values;
  for (int k = 0; k < kQuantGroup; ++k) values[k] = 0x1p-133f * static_cast<float>(k % 5);
  values[9] = 0x1p-133f * 40;
  QuantGroup group;
  std::memset(&group, 0x7f, sizeof(group));
  ASSERT_TRUE(QuantizeGroup(values.data(), DType::kInt4, &group).ok());
  Values wide;
  WidenQuantGroup(group, DType::kInt4, wide.data());
  for (const float is : wide) EXPECT_EQ(is, 0);
}

// The minimum that fits these best is no float16.
TEST(QuantizeGroupTest, ValuesAtTheEndOfTheRangeAreKept) {
  std::vector<float> values(kQuantGroup, -65504.0f + 5.91f * (131008.0f / 15));
  values[0] = -65504;
  values[1] = 65504;
  for (const float sign : {1.0f, -1.0f}) {
    for (float& value : values) value *= sign;
    QuantGroup group;
    std::memset(&group, 0x7f, sizeof(group));
    ASSERT_TRUE(QuantizeGroup(values.data(), DType::kInt4, &group).ok());
    const float scale = LoadAsFloat(&group.scale, 0, DType::kF16);
    const float minimum = LoadAsFloat(&group.minimum, 0, DType::kF16);
    for (int k = 0; k < kQuantGroup; ++k) {
      ASSERT_GE(group.q[k], 0);
      ASSERT_LE(group.q[k], 15);
      EXPECT_NEAR(scale * static_cast<float>(group.q[k]) + minimum, values[k], 131008.0f / 15) << k;
    }
  }
}

TEST(QuantizeGroupTest, RefusesWhatAScaleCannotHold) {
  for (const DType format : kFormats) {
    const float limit = format == DType::kInt8 ? 65504.0f * 127 : 65504.0f;
    for (const float bad : {kNaN, kInfinity, -kInfinity, 1e30f, std::nextafter(limit, 1e30f),
                            -std::nextafter(limit, 1e30f)}) {
      Values values = {};
      values[17] = bad;
      QuantGroup group;
      const absl::Status status = QuantizeGroup(values.data(), format, &group);
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    }
    Values values = {};
    values[3] = limit;
    QuantGroup group;
    EXPECT_TRUE(QuantizeGroup(values.data(), format, &group).ok());
  }
}

TEST(QuantBlockTest, EveryGroupComesBack) {
  Random random(3);
  for (const DType format : kFormats) {
    std::vector<std::byte> block(QuantBlockBytes(format));
    std::vector<QuantGroup> groups;
    for (int lane = 0; lane < kQuantPanel; ++lane) groups.push_back(AnyGroup(&random, format));
    for (int lane = 0; lane < kQuantPanel; ++lane) {
      PutQuantGroup(groups[lane], format, lane, block.data());
    }
    for (int lane = 0; lane < kQuantPanel; ++lane) {
      const QuantGroup group = TakeQuantGroup(block.data(), format, lane);
      EXPECT_EQ(std::memcmp(&group, &groups[lane], sizeof group), 0) << lane;
      Values wide;
      WidenQuantGroup(group, format, wide.data());
      for (int k = 0; k < kQuantGroup; ++k) {
        EXPECT_EQ(wide[k],
                  static_cast<float>(Half(group.scale) * group.q[k] + Half(group.minimum)));
      }
    }
  }
}

// As GGUF's documents say: values 0 to 15 in the low halves, 16 to 31 in the high ones.
TEST(StoredGroupTest, HasTheBytesOfGguf) {
  QuantGroup group = {0x3c01, 0xb402, {}};
  for (int k = 0; k < kQuantGroup; ++k) group.q[k] = static_cast<int8_t>((k * 7 + 3) % 16);
  std::array<uint8_t, 20> four;
  StoreQuantGroup(group, DType::kInt4, four.data());
  const uint8_t head[] = {0x01, 0x3c, 0x02, 0xb4};
  EXPECT_EQ(std::memcmp(four.data(), head, 4), 0);
  for (int k = 0; k < 16; ++k) EXPECT_EQ(four[4 + k], group.q[k] + 16 * group.q[k + 16]);

  for (int k = 0; k < kQuantGroup; ++k) group.q[k] = static_cast<int8_t>(k * 8 - 128);
  std::array<uint8_t, 34> eight;
  StoreQuantGroup(group, DType::kInt8, eight.data());
  EXPECT_EQ(std::memcmp(eight.data(), head, 2), 0);
  for (int k = 0; k < kQuantGroup; ++k) EXPECT_EQ(static_cast<int8_t>(eight[2 + k]), k * 8 - 128);
}

TEST(StoredGroupTest, EveryGroupComesBack) {
  Random random(9);
  for (const DType format : kFormats) {
    for (int i = 0; i < 50; ++i) {
      const QuantGroup group = AnyGroup(&random, format);
      std::vector<uint8_t> bytes(StoredGroupBytes(format));
      StoreQuantGroup(group, format, bytes.data());
      const QuantGroup back = LoadQuantGroup(bytes.data(), format);
      EXPECT_EQ(std::memcmp(&group, &back, sizeof group), 0);
    }
  }
}

}  // namespace
}  // namespace packrat
