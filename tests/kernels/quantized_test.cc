#include "kernels/quantized.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu_target.h"
#include "tests/kernels/random.h"

namespace packrat {
namespace {

constexpr DType kFormats[] = {DType::kInt8, DType::kInt4};
// Of a float16: its largest relative rounding, and half the distance of its smallest numbers.
constexpr double kHalfUnit = 0x1p-11, kHalfLeast = 0x1p-25;

double Half(uint16_t bits) { return LoadAsFloat(&bits, 0, DType::kF16); }

float AsFloat(int32_t word) {
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

// Instruction sets of this machine.
std::vector<const QuantKernels*> Kernels() {
  std::vector<const QuantKernels*> kernels = {&kQuantSse4};
  if (__builtin_cpu_supports("avx2")) kernels.push_back(&kQuantAvx2);
  if (__builtin_cpu_supports("avx512vnni")) kernels.push_back(&kQuantVnni);
  return kernels;
}

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

// Any values that the format has, with scales in a range where products stay in float32's.
QuantGroup AnyGroup(Random* random, DType format) {
  QuantGroup group = {};
  const auto half = [&] {
    return static_cast<uint16_t>(random->Int(0, 1) << 15 | random->Int(0, 16) << 10 |
                                 random->Int(0, 1023));
  };
  group.scale = half();
  if (format == DType::kInt4) group.minimum = half();
  const bool extreme = random->Int(0, 3) == 0;
  for (int8_t& q : group.q) {
    if (format == DType::kInt8) {
      q = static_cast<int8_t>(extreme ? -128 : random->Int(-128, 127));
    } else {
      q = static_cast<int8_t>(extreme ? 15 : random->Int(0, 15));
    }
  }
  return group;
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

// n rows as QuantizeRows() leaves them.
struct Rows {
  int n, in;
  ptrdiff_t stride;
  std::vector<float> x;
  std::vector<int32_t> words;

  Rows(Random* random, int rows, int inputs)
      : n(rows), in(inputs), stride(in + random->Int(0, 3)), x(static_cast<size_t>(stride) * n) {
    for (size_t i = 0; i < x.size(); ++i) {
      // Some groups' largest values are near the others' smallest.
      if (i % kQuantGroup == 0) scale = std::ldexp(1.0f, random->Int(-12, 12));
      x[i] = random->Normal() * scale;
    }
    Round();
  }
  void Round() {
    words.assign(QuantRowBytes(in) / 4 * n, 0x7fc5a5a5);
    QuantizeRows(x.data(), stride, n, in, words.data());
  }
  int32_t word(int r, int group, int i) const {
    return words[(static_cast<size_t>(group) * kQuantWords + i) * n + r];
  }
  int q(int r, int group, int k) const {
    int8_t quad[4];
    const int32_t bits = word(r, group, k / 4);
    std::memcpy(quad, &bits, 4);
    return quad[k % 4];
  }
  float x_scale(int r, int group) const { return AsFloat(word(r, group, 8)); }

 private:
  float scale = 1;
};

TEST(QuantizeRowsTest, RoundsToTheNearest) {
  Random random(4);
  for (int n = 1; n <= 6; ++n) {
    const Rows rows(&random, n, 96);
    for (int r = 0; r < n; ++r) {
      for (int g = 0; g < 3; ++g) {
        const float* x = rows.x.data() + r * rows.stride + g * kQuantGroup;
        float largest = 0;
        int sum = 0;
        for (int k = 0; k < kQuantGroup; ++k) largest = std::fmax(largest, std::fabs(x[k]));
        const float scale = rows.x_scale(r, g);
        EXPECT_EQ(scale, largest / 127);
        for (int k = 0; k < kQuantGroup; ++k) {
          const int q = rows.q(r, g, k);
          sum += q;
          // Three roundings: of the inverse, the product and the scale.
          EXPECT_NEAR(double{scale} * q, x[k], scale * (0.5 + 3 * 127 * kUnit));
          EXPECT_LE(std::abs(q), 127);
        }
        EXPECT_EQ(rows.word(r, g, 9), -128 * sum);
        EXPECT_EQ(AsFloat(rows.word(r, g, 10)), scale * static_cast<float>(sum));
      }
    }
  }
}

TEST(QuantizeRowsTest, HalvesGoToEven) {
  Random random(5);
  Rows rows(&random, 1, 32);
  for (int k = 0; k < kQuantGroup; ++k) rows.x[k] = static_cast<float>(k) - 15.5f;
  rows.x[0] = 127;
  rows.Round();
  EXPECT_EQ(rows.x_scale(0, 0), 1.0f);
  for (int k = 1; k < kQuantGroup; ++k) {
    EXPECT_EQ(rows.q(0, 0, k), static_cast<int>(std::nearbyint(rows.x[k]))) << rows.x[k];
  }
}

TEST(QuantizeRowsTest, SmallGroupsAreZerosAndBadOnesShow) {
  Random random(6);
  for (int bad = 0; bad < 3; ++bad) {
    Rows rows(&random, 3, 64);
    float* group = rows.x.data() + rows.stride + 32;
    std::fill_n(group, 32, 0x1p-101f);
    if (bad == 1) group[5] = kNaN;
    if (bad == 2) group[5] = -kInfinity;
    const Rows before = rows;
    rows.Round();
    for (int r = 0; r < 3; ++r) {
      for (int g = 0; g < 2; ++g) {
        if (r != 1 || g != 1) {
          EXPECT_TRUE(std::isfinite(rows.x_scale(r, g)));
          EXPECT_EQ(rows.word(r, g, 3), before.word(r, g, 3));
        } else if (bad == 0) {
          for (int i = 0; i < kQuantWords; ++i) EXPECT_EQ(rows.word(r, g, i), 0) << i;
        } else {
          EXPECT_TRUE(std::isnan(rows.x_scale(r, g)));
          EXPECT_TRUE(std::isnan(AsFloat(rows.word(r, g, 10))));
        }
      }
    }
  }
}

// A panel of any values, and what it means.
struct Panel {
  DType format;
  std::vector<std::byte> bytes;
  std::vector<QuantGroup> groups;  // (32, in / 32)

  Panel(Random* random, DType type, int in)
      : format(type), bytes(QuantPanelBytes(type, in)), groups(in) {
    const int count = in / kQuantGroup;
    for (int o = 0; o < kQuantPanel; ++o) {
      for (int g = 0; g < count; ++g) {
        groups[o * count + g] = AnyGroup(random, type);
        PutQuantGroup(groups[o * count + g], type, o, bytes.data() + g * QuantBlockBytes(type));
      }
    }
  }
};

// The contract, one operation after the other.
float Product(const Rows& rows, int r, const Panel& panel, int output) {
  const int count = rows.in / kQuantGroup;
  float acc = 0;
  for (int g = 0; g < count; ++g) {
    const QuantGroup& group = panel.groups[output * count + g];
    int dot = 0;
    for (int k = 0; k < kQuantGroup; ++k) dot += group.q[k] * rows.q(r, g, k);
    const float scaled = static_cast<float>(dot) * static_cast<float>(Half(group.scale));
    acc = acc + scaled * rows.x_scale(r, g);
    if (panel.format == DType::kInt4) {
      acc = acc + static_cast<float>(Half(group.minimum)) * AsFloat(rows.word(r, g, 10));
    }
  }
  return acc;
}

TEST(QuantKernelsTest, EveryInstructionSetHasTheBitsOfTheContract) {
  Random random(7);
  for (const DType format : kFormats) {
    for (int i = 0; i < 60; ++i) {
      const int in = 32 * random.Int(1, 9), n = i % kMostQuantRows + 1;
      Rows rows(&random, n, in);
      if (i % 5 == 0) {  // As far as sums go.
        for (float& x : rows.x) x = random.Int(0, 9) == 0 ? -127.0f : 127.0f;
        rows.Round();
      }
      const Panel panel(&random, format, in);
      for (const QuantKernels* kernels : Kernels()) {
        if (n > kernels->max_rows) continue;
        GuardedFloats out(static_cast<size_t>(n) * kQuantPanel);
        kernels->multiply(format, rows.words.data(), n, panel.bytes.data(), in, out.data());
        for (int r = 0; r < n; ++r) {
          for (int o = 0; o < kQuantPanel; ++o) {
            const float expected = Product(rows, r, panel, o);
            ASSERT_TRUE(SameBits(&out[r * kQuantPanel + o], &expected, 1))
                << kernels->name << " " << DTypeName(format) << " rows " << n << " in " << in
                << " row " << r << " output " << o << ": " << out[r * kQuantPanel + o] << ", not "
                << expected;
          }
        }
        ASSERT_TRUE(out.GuardsIntact());
      }
    }
  }
}

// Beside the exact product of the weights with the inputs before they were rounded: each input is
// off by half its scale and three roundings; then five roundings a group, and sums of up to twice
// as many terms as groups.
TEST(QuantKernelsTest, IsNearTheExactProduct) {
  Random random(8);
  for (const DType format : kFormats) {
    for (int i = 0; i < 20; ++i) {
      const int in = 32 * random.Int(1, 9), groups = in / kQuantGroup;
      const Rows rows(&random, 1, in);
      const Panel panel(&random, format, in);
      for (const QuantKernels* kernels : Kernels()) {
        float out[kQuantPanel];
        kernels->multiply(format, rows.words.data(), 1, panel.bytes.data(), in, out);
        for (int o = 0; o < kQuantPanel; ++o) {
          double sum = 0, magnitude = 0, tolerance = 0;
          for (int g = 0; g < groups; ++g) {
            const QuantGroup& group = panel.groups[o * groups + g];
            for (int k = 0; k < kQuantGroup; ++k) {
              const double x = rows.x[g * kQuantGroup + k], x_scale = rows.x_scale(0, g);
              const double scaled = Half(group.scale) * group.q[k], minimum = Half(group.minimum);
              sum += x * (scaled + minimum);
              magnitude += (std::fabs(x) + x_scale) * (std::fabs(scaled) + std::fabs(minimum));
              tolerance += x_scale * (0.5 + 3 * 127 * kUnit) * std::fabs(scaled + minimum);
            }
          }
          ASSERT_NEAR(out[o], sum, tolerance + (5 + 2 * groups) * kUnit * magnitude);
        }
      }
    }
  }
}

TEST(QuantKernelsTest, TheChosenOneFollowsTheTarget) {
  for (const std::string& target : SupportedCpuTargets()) {
    ASSERT_TRUE(SetCpuTarget(target).ok());
    const std::string name = ChosenQuantKernels().name;
    if (target == "avx512") {
      EXPECT_EQ(name, __builtin_cpu_supports("avx512vnni") ? "vnni" : "avx2");
    } else {
      EXPECT_EQ(name, target);
    }
  }
  ASSERT_TRUE(SetCpuTarget("auto").ok());
}

}  // namespace
}  // namespace packrat
