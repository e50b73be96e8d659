#include "kernels/rope.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"

namespace packrat {
namespace {

constexpr double kTurn = 6.283185307179586;

// The last channel that is fast and the first that is slow, where channels tell. As transformers
// has them, also where no channel is one of the two.
struct Ends {
  double fast, slow;
};
Ends ChannelEnds(double base, int head_dim, const RopeScaling& scaling) {
  const auto channel = [&](double turns) {
    return head_dim * std::log(scaling.original_context / (turns * kTurn)) / (2 * std::log(base));
  };
  Ends ends = {channel(scaling.high_freq_factor), channel(scaling.low_freq_factor)};
  if (scaling.ramp == RopeScaling::Ramp::kWholeChannels) {
    ends = {std::floor(ends.fast), std::ceil(ends.slow)};
  }
  ends = {std::max(ends.fast, 0.0), std::min(ends.slow, head_dim - 1.0)};
  if (ends.fast == ends.slow) ends.slow += 0.001;
  return ends;
}

}  // namespace

bool RopeScaling::operator==(const RopeScaling& other) const {
  return factor == other.factor && low_freq_factor == other.low_freq_factor &&
         high_freq_factor == other.high_freq_factor && original_context == other.original_context &&
         ramp == other.ramp && attention_factor == other.attention_factor &&
         divisors == other.divisors && longest == other.longest;
}

std::vector<double> RopeFrequencies(double base, int head_dim, const RopeScaling& scaling) {
  const bool by_turns = scaling.ramp == RopeScaling::Ramp::kTurns;
  const Ends ends = by_turns ? Ends{} : ChannelEnds(base, head_dim, scaling);
  const std::vector<double>& divisors = scaling.divisors;
  PACKRAT_CHECK(divisors.empty() || static_cast<int>(divisors.size()) == head_dim / 2);
  std::vector<double> frequencies;
  for (int i = 0; i < head_dim / 2; ++i) {
    const double frequency = std::pow(base, -2.0 * i / head_dim);
    if (!divisors.empty()) {
      frequencies.push_back(frequency / divisors[i]);
      continue;
    }
    const double turns = scaling.original_context * frequency / kTurn;
    const double along = by_turns ? (turns - scaling.low_freq_factor) /
                                        (scaling.high_freq_factor - scaling.low_freq_factor)
                                  : 1.0 - (i - ends.fast) / (ends.slow - ends.fast);
    const double fast = std::clamp(along, 0.0, 1.0);
    frequencies.push_back(frequency * (fast + (1.0 - fast) / scaling.factor));
  }
  return frequencies;
}

absl::Status FillRope(const BatchView& batch, const double* frequencies, int head_dim, int divisor,
                      double factor, float* rope, KernelContext*) {
  const int half = head_dim / 2;
  for (int s = 0; s < batch.num_spans; ++s) {
    const BatchSpan& span = batch.spans[s];
    for (int t = 0; t < span.num_tokens; ++t) {
      float* row = rope + static_cast<size_t>(span.first_token + t) * head_dim;
      const int64_t index = (span.position + t) / divisor;
      for (int i = 0; i < half; ++i) {
        const double angle = static_cast<double>(index) * frequencies[i];
        row[i] = static_cast<float>(std::cos(angle) * factor);
        row[i + half] = static_cast<float>(std::sin(angle) * factor);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace packrat
