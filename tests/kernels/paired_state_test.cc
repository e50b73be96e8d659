#include "kernels/paired_state.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/batch.h"
#include "kernels/matmul_kernel.h"
#include "tests/kernels/random.h"

namespace packrat {
namespace {

// Whole numbers, whose products and sums are exact, and small enough to be bfloat16.
std::vector<float> Whole(Random* random, size_t n) {
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(random->Int(-127, 127));
  return values;
}

// A block whose sixteen tokens have rows of b (16, rows) and u (16, padded), and a factor each.
struct Block {
  int rows, padded;
  std::vector<float> b, u, c;

  Block(Random* random, int r, int p)
      : rows(r), padded(p), b(Whole(random, size_t{16} * r)), u(Whole(random, size_t{16} * p)) {
    for (int s = 0; s < kBlockTokens; ++s) c.push_back(static_cast<float>(s % 5 - 2));
  }

  // The state after the block, from `state` or nothing, with `factor` times that of each token.
  void Seal(bool sealed, float decay, float factor, std::vector<float>* state) const {
    const float* pointers[kBlockTokens];
    for (int s = 0; s < kBlockTokens; ++s) pointers[s] = &b[static_cast<size_t>(s) * rows];
    std::vector<float> factors = c;
    for (float& one : factors) one *= factor;
    SealPairedState(sealed, decay, factors.data(), pointers, u.data(), rows, padded, state->data(),
                    state->data(), ptrdiff_t{rows / 2} * padded);
  }
  // Adds what Seal() adds to a plain matrix (rows, padded).
  void AddTo(std::vector<double>* matrix) const {
    for (int i = 0; i < rows; ++i) {
      for (int d = 0; d < padded; ++d) {
        for (int s = 0; s < kBlockTokens; ++s) {
          (*matrix)[static_cast<size_t>(i) * padded + d] += double{c[s]} *
                                                            b[static_cast<size_t>(s) * rows + i] *
                                                            u[static_cast<size_t>(s) * padded + d];
        }
      }
    }
  }
};

// Row i of the state, as it is read.
std::vector<float> ReadRow(const std::vector<float>& state, int rows, int padded, int i) {
  std::vector<float> unit(rows), pairs(rows / 2), out(padded, kNaN);
  unit[i] = 1.0f;
  RoundToPairs(unit.data(), rows, pairs.data());
  ReadPairedState(pairs.data(), rows / 2, 1, state.data(), rows / 2, padded, out.data(), padded);
  return out;
}

class PairedStateTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!CpuHasBFloat16()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  }
};

// Reading sees the nearest bfloat16 of every number, of two equally near either.
TEST_F(PairedStateTest, ReadsWhatIsNearest) {
  Random random(1);
  for (const auto& [rows, padded] : {std::pair(16, 16), {128, 32}, {48, 80}, {256, 256}}) {
    const Block block(&random, rows, padded);
    std::vector<float> state(static_cast<size_t>(rows) * padded, kNaN);
    block.Seal(/*sealed=*/false, 1.0f, 1.0f, &state);
    std::vector<double> exact(state.size());
    block.AddTo(&exact);
    bool cut = false;
    for (int i = 0; i < rows; ++i) {
      const std::vector<float> row = ReadRow(state, rows, padded, i);
      for (int d = 0; d < padded; ++d) {
        const double wanted = exact[static_cast<size_t>(i) * padded + d];
        cut = cut || row[d] != wanted;
        const double unit = std::ldexp(1.0, std::ilogb(wanted == 0 ? 1.0 : wanted) - 7);
        ASSERT_LE(std::fabs(row[d] - wanted), unit / 2) << "row " << i << " column " << d;
        uint32_t bits;
        std::memcpy(&bits, &row[d], sizeof bits);
        ASSERT_EQ(bits & 0xffff, 0u) << row[d];
      }
    }
    EXPECT_TRUE(cut) << "all of it was bfloat16 already";
  }
}

// What reading does not see is not lost: after blocks that add and take away, the state is exact.
TEST_F(PairedStateTest, KeepsAllBitsFromBlockToBlock) {
  Random random(2);
  const int rows = 64, padded = 48;
  Block one(&random, rows, padded), two(&random, rows, padded);
  std::vector<float> state(size_t{1} * rows * padded, kNaN), first;
  one.Seal(false, 1.0f, 1.0f, &state);
  first = state;
  two.Seal(true, 1.0f, 0.0f, &state);  // Adds nothing.
  EXPECT_TRUE(SameBits(state, first));
  two.Seal(true, 1.0f, 1.0f, &state);
  EXPECT_FALSE(SameBits(state, first));
  two.Seal(true, 1.0f, -1.0f, &state);
  EXPECT_TRUE(SameBits(state, first));
  two.Seal(true, 0.5f, 0.0f, &state);
  two.Seal(true, 2.0f, 0.0f, &state);
  EXPECT_TRUE(SameBits(state, first));
}

// As many vectors as there may be, each alone and all at once.
TEST_F(PairedStateTest, VectorsDoNotSeeEachOther) {
  Random random(3);
  for (const int padded : {16, 32, 48, 64, 112, 128}) {
    const int rows = 32;
    std::vector<float> state(size_t{1} * rows * padded);
    Block(&random, rows, padded).Seal(false, 1.0f, 0.01f, &state);
    for (int n = 1; n <= 2 * kBlockTokens; ++n) {
      const ptrdiff_t stride = rows / 2 + 3, out_stride = padded + 5;
      std::vector<float> pairs(n * stride, kNaN), out(n * out_stride, kNaN), alone(padded);
      for (int r = 0; r < n; ++r) {
        RoundToPairs(random.Normals(rows).data(), rows, &pairs[r * stride]);
      }
      ReadPairedState(pairs.data(), stride, n, state.data(), rows / 2, padded, out.data(),
                      out_stride);
      for (int r = 0; r < n; ++r) {
        ReadPairedState(&pairs[r * stride], stride, 1, state.data(), rows / 2, padded, alone.data(),
                        padded);
        ASSERT_TRUE(SameBits(alone.data(), &out[r * out_stride], padded)) << n << " " << r;
        for (int i = padded; i < out_stride; ++i) ASSERT_TRUE(std::isnan(out[r * out_stride + i]));
      }
    }
  }
}

}  // namespace
}  // namespace packrat
