#include "kernels/rope.h"

#include <algorithm>
#include <cmath>

namespace packrat {

bool RopeScaling::operator==(const RopeScaling& other) const {
  return factor == other.factor && low_freq_factor == other.low_freq_factor &&
         high_freq_factor == other.high_freq_factor && original_context == other.original_context;
}

std::vector<double> RopeFrequencies(double base, int head_dim, const RopeScaling& scaling) {
  constexpr double kTurn = 6.283185307179586;
  std::vector<double> frequencies;
  for (int i = 0; i < head_dim / 2; ++i) {
    const double frequency = std::pow(base, -2.0 * i / head_dim);
    const double turns = scaling.original_context * frequency / kTurn;
    const double fast = std::clamp(
        (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor),
        0.0, 1.0);
    frequencies.push_back(frequency * (fast + (1.0 - fast) / scaling.factor));
  }
  return frequencies;
}

absl::Status FillRope(const BatchView& batch, const double* frequencies, int head_dim, int divisor,
                      float* rope, KernelContext*) {
  const int half = head_dim / 2;
  for (int s = 0; s < batch.num_spans; ++s) {
    const BatchSpan& span = batch.spans[s];
    for (int t = 0; t < span.num_tokens; ++t) {
      float* row = rope + static_cast<size_t>(span.first_token + t) * head_dim;
      const int64_t index = (span.position + t) / divisor;
      for (int i = 0; i < half; ++i) {
        const double angle = static_cast<double>(index) * frequencies[i];
        row[i] = static_cast<float>(std::cos(angle));
        row[i + half] = static_cast<float>(std::sin(angle));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace packrat
