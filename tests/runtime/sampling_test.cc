#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace packrat {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Rows of every length around the lanes and blocks, with ties and excluded tokens; NaNs behind
// them.
class Rows {
 public:
  std::vector<float> Next() {
    const int sizes[] = {1, 2, 15, 16, 17, 100, 255, 256, 257, 1000, 4097, 20000};
    const int n = sizes[random_() % std::size(sizes)];
    std::normal_distribution<float> normal(0, 3);
    const int kind = random_() % 4;
    std::vector<float> row(n);
    for (float& x : row) {
      x = normal(random_);
      if (kind == 1) x = std::round(x);  // Many ties.
      if (kind == 2 && random_() % 2) x = -kInf;
      if (kind == 3) x = 1.5f;
    }
    row[random_() % n] = 1.0f;  // At least one that is not excluded.
    return row;
  }
  // The row with NaNs on both sides, that must not be read.
  static const float* Guard(const std::vector<float>& row, std::vector<float>* guarded) {
    guarded->assign(row.size() + 64, kNan);
    std::copy(row.begin(), row.end(), guarded->begin() + 32);
    return guarded->data() + 32;
  }
  int Pick(int n) { return static_cast<int>(random_() % n); }
  std::mt19937_64 random_{9};
};

std::vector<IndexedValue> Ranked(const std::vector<float>& row) {
  std::vector<IndexedValue> all;
  for (size_t i = 0; i < row.size(); ++i) all.push_back({static_cast<int32_t>(i), row[i]});
  std::sort(all.begin(), all.end(), RanksBefore);
  return all;
}

TEST(Sampling, ArgMaxTakesTheLowestOfEquals) {
  Rows rows;
  std::vector<float> guarded;
  for (int round = 0; round < 300; ++round) {
    const std::vector<float> row = rows.Next();
    const IndexedValue best = ArgMax(Rows::Guard(row, &guarded), static_cast<int>(row.size()));
    const auto expected = std::max_element(row.begin(), row.end());
    EXPECT_EQ(best.index, expected - row.begin());
    EXPECT_EQ(best.value, *expected);
  }
}

TEST(Sampling, TopKIsTheHeadOfTheRanking) {
  Rows rows;
  std::vector<float> guarded;
  for (int round = 0; round < 300; ++round) {
    const std::vector<float> row = rows.Next();
    const int n = static_cast<int>(row.size());
    const int k = 1 + rows.Pick(rows.Pick(2) ? n : std::min(n, 60));
    const std::vector<IndexedValue> ranked = Ranked(row);
    std::vector<IndexedValue> scratch(TopKScratch(k));
    const float* x = Rows::Guard(row, &guarded);
    ASSERT_EQ(TopK(x, n, k, scratch.data()), k);
    std::sort(scratch.begin(), scratch.begin() + k, RanksBefore);
    for (int i = 0; i < k; ++i) ASSERT_EQ(scratch[i].index, ranked[i].index);
    const IndexedValue cut = TopKCut(x, n, k, scratch.data());
    EXPECT_EQ(cut.index, ranked[k - 1].index);
    // The same k, in index order.
    std::vector<IndexedValue> kept(n);
    ASSERT_EQ(GatherFromCut(x, n, cut, kept.data()), k);
    for (int i = 0; i < k; ++i) {
      ASSERT_FALSE(RanksBefore(cut, kept[i]));
      ASSERT_TRUE(i == 0 || kept[i - 1].index < kept[i].index);
      ASSERT_EQ(kept[i].value, row[kept[i].index]);
    }
  }
}

TEST(Sampling, ExpIsAccurate) {
  EXPECT_EQ(ExpNonPositive(0.0f), 1.0f);
  EXPECT_EQ(ExpNonPositive(-0.0f), 1.0f);
  EXPECT_EQ(ExpNonPositive(-kInf), 0.0f);
  EXPECT_EQ(ExpNonPositive(-87.5f), 0.0f);
  EXPECT_EQ(ExpNonPositive(-3e38f), 0.0f);
  double worst = 0;
  for (float x = 0; x > -87.0f; x -= 0.00037f) {
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(ExpNonPositive(x) / exact - 1));
  }
  EXPECT_LT(worst, 2e-7);
}

TEST(Sampling, ExpSumAndPickByMass) {
  Rows rows;
  std::vector<float> guarded;
  for (int round = 0; round < 200; ++round) {
    const std::vector<float> row = rows.Next();
    const int n = static_cast<int>(row.size());
    const float shift = *std::max_element(row.begin(), row.end());
    const float scale = round % 3 == 0 ? 1.0f : round % 3 == 1 ? 0.1f : 1e30f;
    std::vector<float> w(n);
    const float* x = Rows::Guard(row, &guarded);
    const double sum = ExpSum(x, n, shift, scale, w.data());
    EXPECT_EQ(ExpSum(x, n, shift, scale, nullptr), sum);
    std::vector<double> running(n + 1, 0.0);
    for (int i = 0; i < n; ++i) {
      const double exact = std::exp((static_cast<double>(row[i]) - shift) * scale);
      ASSERT_NEAR(w[i], exact, 1e-5 * exact + 1e-37);  // The argument is rounded: 87 * 2^-24.
      running[i + 1] = running[i] + w[i];
    }
    ASSERT_NEAR(sum, running[n], 1e-6 * running[n]);
    for (double share : {0.0, 0.3, 0.5, 0.999999, 1.0, rows.Pick(1000) / 1000.0}) {
      const int i = PickByMass(w.data(), n, share * sum);
      ASSERT_GE(i, 0);
      ASSERT_GT(w[i], 0.0f);
      ASSERT_GE(running[i + 1], share * sum * (1 - 1e-6));
      ASSERT_LE(running[i], share * sum * (1 + 1e-6) + 1e-6 * sum);
    }
  }
  const float zeros[20] = {};
  EXPECT_EQ(PickByMass(zeros, 20, 0.0), -1);
}

// Weights as a sampler has them: the largest is 1.
std::vector<float> Weights(Rows* rows, std::vector<float> row) {
  const float best = *std::max_element(row.begin(), row.end());
  const float scale = rows->Pick(3) == 0 ? 20.0f : rows->Pick(2) == 0 ? 1.0f : 0.01f;
  for (float& x : row) x = ExpNonPositive((x - best) * scale);
  return row;
}

// Cuts are where the sum reaches the mass: before `cut` it is less, with it as much.
void CheckCut(const std::vector<IndexedValue>& ranked, IndexedValue cut, double mass,
              double rounding) {
  double before = 0;
  size_t i = 0;
  for (; ranked[i].index != cut.index; ++i) before += ranked[i].value;
  ASSERT_EQ(cut.value, ranked[i].value);
  ASSERT_LT(before, mass * (1 + rounding));
  ASSERT_GE(before + cut.value, mass * (1 - rounding));
}

TEST(Sampling, TopMassCutIsTheShortestPrefix) {
  Rows rows;
  std::vector<float> guarded;
  for (int round = 0; round < 1000; ++round) {
    const std::vector<float> row = Weights(&rows, rows.Next());
    const int n = static_cast<int>(row.size());
    const std::vector<IndexedValue> ranked = Ranked(row);
    double total = 0;
    for (float x : row) total += x;
    const double shares[] = {1e-9, 0.5, 0.95, 0.999999, (1 + rows.Pick(999)) / 1000.0};
    const double share = shares[round % std::size(shares)];
    std::vector<IndexedValue> list = ranked;
    std::shuffle(list.begin(), list.end(), rows.random_);
    CheckCut(ranked, TopMassCut(list.data(), n, share * total), share * total, 1e-9);
    // Sums of blocks of 256 in float32.
    const float* const w = Rows::Guard(row, &guarded);
    CheckCut(ranked, TopMassCut(w, n, MassFrom(w, n, 0), share, list.data()), share * total, 1e-6);
  }
  std::vector<IndexedValue> one = {{7, 0.5f}};
  EXPECT_EQ(TopMassCut(one.data(), 1, 0.7).index, 7);
  // Of a mass that sums cannot reach, all.
  const float two[] = {1.0f, 0.25f};
  IndexedValue list_of_two[2];
  EXPECT_FALSE(RanksBefore(TopMassCut(two, 2, 2.0, 0.9, list_of_two), {1, 0.25f}));
}

TEST(Sampling, WhatRanksAfterTheCutIsLeftOut) {
  Rows rows;
  std::vector<float> guarded;
  for (int round = 0; round < 1000; ++round) {
    const std::vector<float> row = Weights(&rows, rows.Next());
    const int n = static_cast<int>(row.size());
    const std::vector<IndexedValue> ranked = Ranked(row);
    IndexedValue cut = ranked[rows.Pick(n)];
    if (round % 3 == 0) cut.index = std::numeric_limits<int32_t>::max();  // All of this value.
    double total = 0;
    for (const IndexedValue& x : ranked) total += RanksBefore(cut, x) ? 0.0f : x.value;
    float* const w = const_cast<float*>(Rows::Guard(row, &guarded));
    const float bar = cut.value;
    double from = 0;
    for (float x : row) from += x >= bar ? x : 0.0f;
    EXPECT_NEAR(MassFrom(w, n, bar), from, 1e-6 * from);
    std::vector<IndexedValue> out(n);
    const int between = GatherBetween(w, n, bar / 2, bar, out.data());
    int expected = 0;
    for (int i = 0; i < n; ++i) {
      if (!(row[i] >= bar / 2 && row[i] < bar)) continue;
      ASSERT_LT(expected, between);
      ASSERT_EQ(out[expected].index, i);
      ASSERT_EQ(out[expected++].value, row[i]);
    }
    ASSERT_EQ(between, expected);
    EXPECT_NEAR(KeepFromCut(cut, n, w), total, 1e-6 * total);
    for (int i = 0; i < n; ++i) ASSERT_EQ(w[i], RanksBefore(cut, {i, row[i]}) ? 0.0f : row[i]);
    EXPECT_TRUE(std::isnan(w[-1]) && std::isnan(w[n]));
  }
}

}  // namespace
}  // namespace packrat
