// Rows of inputs in bytes, and their products with quantised panels.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cpu_target.h"
#include "kernels/quantized.h"
#include "tests/kernels/quantized_groups.h"
#include "tests/kernels/random.h"

namespace packrat {
namespace {

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
        EXPECT_EQ(rows.word(r, g, 9), kDotStart - 128 * sum);
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
          for (int i = 0; i < kQuantWords; ++i) {
            EXPECT_EQ(rows.word(r, g, i), i == 9 ? kDotStart : 0) << i;
          }
        } else {
          EXPECT_TRUE(std::isnan(rows.x_scale(r, g)));
          EXPECT_TRUE(std::isnan(AsFloat(rows.word(r, g, 10))));
        }
      }
    }
  }
}

TEST(QuantizeRowsTest, EveryInstructionSetHasTheSameBits) {
  Random random(10);
  for (int i = 0; i < 60; ++i) {
    const int n = i % kMostQuantRows + 1;
    Rows rows(&random, n, 32 * random.Int(1, 9));
    const auto at = static_cast<size_t>(random.Int(0, rows.in - 1));
    if (i % 3 == 1) rows.x[at] = random.OneOf<float>({kNaN, -kNaN, kInfinity, -kInfinity, 3e38f});
    if (i % 3 == 2) std::fill_n(&rows.x[at / 32 * 32], 32, random.OneOf<float>({0x1p-101f, -0.0f}));
    // Halves, which go to even.
    for (int k = 1; k < 32 && i % 4 == 0; ++k)
      rows.x[0] = 127, rows.x[k] = random.Int(0, 99) + 0.5f;
    rows.Round();
    for (const QuantKernels* kernels : Kernels()) {
      std::vector<int32_t> words(rows.words.size(), 0x7fc5a5a5);
      kernels->round(rows.x.data(), rows.stride, n, rows.in, words.data());
      EXPECT_EQ(words, rows.words) << kernels->name;
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

// The contract, one operation after the other; `fused`: with an fma, which SSE4 lacks.
float Product(const Rows& rows, int r, const Panel& panel, int output, bool fused) {
  const auto add = [fused](float a, float b, float acc) {
    return fused ? std::fmaf(a, b, acc) : a * b + acc;
  };
  const int count = rows.in / kQuantGroup;
  float acc = 0;
  for (int g = 0; g < count; ++g) {
    const QuantGroup& group = panel.groups[output * count + g];
    int dot = 0;
    for (int k = 0; k < kQuantGroup; ++k) dot += group.q[k] * rows.q(r, g, k);
    const float scaled = static_cast<float>(dot) * static_cast<float>(Half(group.scale));
    acc = add(scaled, rows.x_scale(r, g), acc);
    if (panel.format == DType::kInt4) {
      acc = add(static_cast<float>(Half(group.minimum)), AsFloat(rows.word(r, g, 10)), acc);
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
        kernels->multiply(format, rows.words.data(), n, panel.bytes.data(), in, n % 2 == 1,
                          out.data());
        for (int r = 0; r < n; ++r) {
          for (int o = 0; o < kQuantPanel; ++o) {
            const float expected = Product(rows, r, panel, o, kernels != &kQuantSse4);
            ASSERT_TRUE(SameBits(&out[r * kQuantPanel + o], &expected, 1))
                << kernels->name << " " << DTypeName(format) << " rows " << n << " in " << in
                << " row " << r << " output " << o << ": " << out[r * kQuantPanel + o] << ", not "
                << expected;
          }
        }
        ASSERT_TRUE(out.GuardsIntact());
        if (format != DType::kInt4) continue;
        std::vector<std::byte> spread(SpreadPanelBytes(in));
        kernels->spread(panel.bytes.data(), in, spread.data());
        GuardedFloats same(static_cast<size_t>(n) * kQuantPanel);
        kernels->multiply_spread(rows.words.data(), n, spread.data(), in, same.data());
        ASSERT_TRUE(SameBits(same.data(), out.data(), n * kQuantPanel))
            << kernels->name << " rows " << n << " in " << in;
        ASSERT_TRUE(same.GuardsIntact());
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
        kernels->multiply(format, rows.words.data(), 1, panel.bytes.data(), in, false, out);
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
    if (target == "avx512" || target == "amx") {
      EXPECT_EQ(name, __builtin_cpu_supports("avx512vnni") ? "vnni" : "avx2");
    } else {
      EXPECT_EQ(name, target);
    }
  }
  ASSERT_TRUE(SetCpuTarget("auto").ok());
}

}  // namespace
}  // namespace packrat
