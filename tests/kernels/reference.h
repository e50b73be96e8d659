// Pieces of the double-precision references, with bounds on what float32 may make of them.
#ifndef PACKRAT_TESTS_KERNELS_REFERENCE_H_
#define PACKRAT_TESTS_KERNELS_REFERENCE_H_

#include <algorithm>
#include <cmath>
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
  explicit SoftmaxList(const Vector& query) : query_(query) {}

  // An entry of which key and value are already off by up to `key_error` (a norm) and
  // `value_error`.
  //
  // The score's error in float32: D / 16 + 5 roundings of a dot product in sixteen lanes, 8 of each
  // rotation (two products and a sum against a norm up to sqrt 2 larger, and the table's own), and
  // the scale's.
  void Add(const Vector& key, const Vector& value, double key_error, const Vector& value_error) {
    const double scale = 1 / std::sqrt(static_cast<double>(key.size()));
    scores_.push_back(Dot(query_, key) * scale);
    values_.push_back(value);
    value_errors_.push_back(value_error);
    const double roundings = static_cast<double>(key.size()) / 16 + 5 + 16 + 1;
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
  double score_error_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_REFERENCE_H_
