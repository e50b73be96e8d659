#include "runtime/step_model.h"

#include <algorithm>
#include <cmath>

#include "kernels/batch.h"
#include "kernels/check.h"

namespace packrat {
namespace {

enum Price { kStep, kToken, kRow, kRead, kPair };

// What can be seen of one step is put down to its tokens first: prompts come before all else.
constexpr Price kOrder[] = {kToken, kStep, kRow, kRead, kPair};
// With each step the prices move most of the way; what is left is done by those to come.
constexpr int kSweeps = 8;
// Less than any model takes; keeps the sums finite.
constexpr double kShortest = 1e-7;
// Of a sum of squares: no step had any of it for long.
constexpr double kNothing = 1e-9;

StepModel::Vector ToVector(const StepContents& contents) {
  return {1, static_cast<double>(contents.tokens), static_cast<double>(contents.rows),
          static_cast<double>(contents.reads), static_cast<double>(contents.pairs)};
}

double Dot(const StepModel::Vector& a, const StepModel::Vector& b) {
  double sum = 0;
  for (int i = 0; i < StepModel::kPrices; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

void StepContents::Add(int num_tokens, int64_t position, int num_rows) {
  tokens += num_tokens;
  rows += num_rows;
  if (num_tokens == 1) {
    reads += position;
  } else {
    has_prompt = true;
    pairs += num_tokens * (position + num_tokens / 2);
  }
}

StepModel::StepModel(double memory) : kept_(memory > 0 ? 1 - 1 / memory : 1) {
  PACKRAT_CHECK(memory == 0 || memory > 1) << memory;
}

void StepModel::Observe(const StepContents& contents, double seconds) {
  Vector x = ToVector(contents);
  for (double& value : x) value /= std::max(seconds, kShortest);
  Sums& sums = sums_[contents.has_prompt ? 1 : 0];
  for (int i = 0; i < kPrices; ++i) {
    for (int j = 0; j < kPrices; ++j) sums.xx[i][j] = kept_ * sums.xx[i][j] + x[i] * x[j];
    sums.x[i] = kept_ * sums.x[i] + x[i];
  }
  Fit(kSweeps);
}

// Coordinate descent: each price in turn is the best one beside the others, or 0 where that would
// be below. A price of which the steps say nothing stays as it is.
void StepModel::Fit(int sweeps) {
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    for (const Price i : kOrder) {
      const double square = sums_[0].xx[i][i] + sums_[1].xx[i][i];
      if (square < kNothing) continue;
      const double missing = sums_[0].x[i] + sums_[1].x[i] - Dot(sums_[0].xx[i], prices_) -
                             Dot(sums_[1].xx[i], prices_);
      prices_[i] = std::max(0.0, prices_[i] + missing / square);
    }
  }
}

double StepModel::Seconds(const StepContents& contents) const {
  return Dot(prices_, ToVector(contents));
}

int StepModel::PromptTokens(const StepContents& decoding, int64_t position, double seconds,
                            int most) const {
  const int least = std::min(kBlockTokens, most);
  const double alone = Seconds(decoding);
  const double room = std::max(seconds - alone, alone);
  // So many tokens from there on take first * n + pair * n * n / 2.
  const double first = prices_[kToken] + prices_[kPair] * static_cast<double>(position);
  if (room >= most * (first + prices_[kPair] * most / 2)) return most;
  if (room <= 0) return least;
  const double tokens = 2 * room / (first + std::sqrt(first * first + 2 * prices_[kPair] * room));
  return std::max(least, static_cast<int>(tokens));
}

}  // namespace packrat
