#include "kernels/rope.h"

#include <cmath>

namespace packrat {

std::vector<double> RopeFrequencies(double base, int head_dim) {
  std::vector<double> frequencies;
  for (int i = 0; i < head_dim / 2; ++i) {
    frequencies.push_back(std::pow(base, -2.0 * i / head_dim));
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
