// Pieces of the double-precision references, with bounds on what float32 may make of them.
#ifndef PACKRAT_TESTS_KERNELS_REFERENCE_H_
#define PACKRAT_TESTS_KERNELS_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/attention.h"
#include "tests/kernels/random.h"

namespace packrat {

using Vector = std::vector<double>;

inline double Dot(const Vector& a, const Vector& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}
inline double Norm(const Vector& a) { return std::sqrt(Dot(a, a)); }
inline double Sigmoid(double a) { return 1 / (1 + std::exp(-a)); }

// The short convolution and silu of channels [first, first + n) of token t. x: (length, channels);
// taps: (conv_size, channels), the current token's last; bias: (channels), or empty.
inline Vector ShortConvolved(const std::vector<float>& x, int channels,
                             const std::vector<float>& taps, const std::vector<float>& bias, int t,
                             int first, int n) {
  const int conv_size = static_cast<int>(taps.size()) / channels;
  Vector y(n);
  for (int d = 0; d < n; ++d) {
    const int channel = first + d;
    double sum = bias.empty() ? 0 : bias[channel];
    for (int back = 0; back < conv_size && back <= t; ++back) {
      sum += double{taps[(conv_size - 1 - back) * channels + channel]} *
             x[static_cast<size_t>(t - back) * channels + channel];
    }
    y[d] = sum * Sigmoid(sum);
  }
  return y;
}

// How activations and pages are stored: float32, or bfloat16 with what that rounds away.
struct Storage {
  bool bfloat16 = false;

  double rounding() const { return bfloat16 ? 0x1p-8 : 0; }  // Eight bits.
  // What is left of a finite number: to nearest, ties to even.
  float operator()(float x) const {
    if (!bfloat16) return x;
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    std::memcpy(&x, &bits, sizeof bits);
    return x;
  }
  std::vector<float> operator()(std::vector<float> values) const {
    for (float& x : values) x = (*this)(x);
    return values;
  }
};

// The rotary embedding of one head at `index`.
template <class T>
Vector Rotated(const T* x, int dim, int index, double base) {
  Vector y(dim);
  for (int i = 0; i < dim / 2; ++i) {
    const double angle = index * std::pow(base, -2.0 * i / dim);
    const double x1 = x[i], x2 = x[i + dim / 2];
    y[i] = x1 * std::cos(angle) - x2 * std::sin(angle);
    y[i + dim / 2] = x2 * std::cos(angle) + x1 * std::sin(angle);
  }
  return y;
}

// One softmax over an explicit list.
class SoftmaxList {
 public:
  // dot_roundings: of a dot product of the query; 0: as on the CPU, D / 16 + 5 in sixteen lanes.
  explicit SoftmaxList(const Vector& query, double dot_roundings = 0)
      : query_(query),
        dot_roundings_(dot_roundings > 0 ? dot_roundings
                                         : static_cast<double>(query.size()) / 16 + 5) {}

  // An entry of which key and value are already off by up to `key_error` (a norm) and
  // `value_error`.
  //
  // The score's error in float32: the roundings of a dot product, 8 of each rotation (two products
  // and a sum against a norm up to sqrt 2 larger, and the table's own), and the scale's.
  void Add(const Vector& key, const Vector& value, double key_error, const Vector& value_error) {
    const double scale = 1 / std::sqrt(static_cast<double>(key.size()));
    scores_.push_back(Dot(query_, key) * scale);
    values_.push_back(value);
    value_errors_.push_back(value_error);
    const double roundings = dot_roundings_ + 16 + 1;
    score_error_ =
        std::max(score_error_, Norm(query_) * scale * (key_error + roundings * kUnit * Norm(key)));
  }

  // A weight moves by twice the scores' error, to which the subtraction of the maximum adds, and by
  // exp's. The sums of n weights and n values take one rounding for each term; each tile rescales
  // both.
  void Finish(Vector* expected, Vector* tolerance) const {
    const double maximum = *std::max_element(scores_.begin(), scores_.end());
    const double minimum = *std::min_element(scores_.begin(), scores_.end());
    Vector weights;
    for (const double score : scores_) weights.push_back(std::exp(score - maximum));
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    const auto n = static_cast<double>(scores_.size());
    const double tiles = n / kAttendTile + 2, largest = std::max(std::fabs(maximum), -minimum);
    const double relative = 2 * score_error_ + (4 * largest + 4 + 2 * n + 8 * tiles) * kUnit;
    expected->assign(query_.size(), 0.0);
    tolerance->assign(query_.size(), 0.0);
    for (size_t j = 0; j < weights.size(); ++j) {
      for (size_t d = 0; d < query_.size(); ++d) {
        const double weight = weights[j] / total;
        (*expected)[d] += weight * values_[j][d];
        (*tolerance)[d] += weight * (relative * std::fabs(values_[j][d]) + value_errors_[j][d]);
      }
    }
  }

 private:
  Vector query_, scores_;
  std::vector<Vector> values_, value_errors_;
  double dot_roundings_, score_error_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_REFERENCE_H_
