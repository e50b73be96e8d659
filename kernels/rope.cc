#include "kernels/rope.h"

#include <cmath>

namespace packrat {

RopeTable::RopeTable(double base, int head_dim, int divisor, int max_tokens)
    : base_(base),
      head_dim_(head_dim),
      divisor_(divisor),
      table_(static_cast<size_t>(max_tokens) * head_dim) {
  for (int i = 0; i < head_dim / 2; ++i) {
    frequencies_.push_back(std::pow(base, -2.0 * i / head_dim));
  }
}

void RopeTable::Set(int token, int64_t position) {
  const int half = head_dim_ / 2;
  float* row = table_.data() + static_cast<size_t>(token) * head_dim_;
  const int64_t index = position / divisor_;
  for (int i = 0; i < half; ++i) {
    const double angle = static_cast<double>(index) * frequencies_[i];
    row[i] = static_cast<float>(std::cos(angle));
    row[i + half] = static_cast<float>(std::sin(angle));
  }
}

}  // namespace packrat
