// Attention token by token in double precision.
#ifndef PACKRAT_TESTS_KERNELS_ATTENTION_REFERENCE_H_
#define PACKRAT_TESTS_KERNELS_ATTENTION_REFERENCE_H_

#include <cmath>
#include <vector>

#include "kernels/attention.h"
#include "tests/kernels/random.h"
#include "tests/kernels/reference.h"

namespace packrat {

inline constexpr double kRopeBase = 10000.0;

inline Vector RotatedHead(const float* x, const AttentionShape& s, int index) {
  Vector y = Rotated(x, s.rotary_dim, index, kRopeBase);
  y.insert(y.end(), x + s.rotary_dim, x + s.head_dim);
  return y;
}

// What an implementation rounds away, beside float32's roundings.
struct AttentionRounding {
  Storage operands;          // What q, k and v can hold.
  double dot_roundings = 0;  // See SoftmaxList.
  // Relative errors of a rotated query, a rotated key, a weight with its value, and a result.
  double query = 0, key = operands.rounding(), value = 0, result = operands.rounding();
};

struct AttentionText {
  int length;
  AttentionRounding rounding;
  std::vector<float> q, k, v;
  Vector expected, tolerance;  // (length, heads * dim)

  AttentionText(Random* random, const AttentionShape& s, int n, float scale,
                const AttentionRounding& rounding_of = {})
      : length(n),
        rounding(rounding_of),
        q(Draw(random, n, s.num_heads * s.head_dim, scale)),
        k(Draw(random, n, s.num_kv_heads * s.head_dim, scale)),
        v(Draw(random, n, s.num_kv_heads * s.head_dim, 1.0f)) {
    for (int t = 0; t < n; ++t) {
      for (int head = 0; head < s.num_heads; ++head) Attend(s, t, head);
    }
  }

  void Attend(const AttentionShape& s, int t, int head) {
    const int dim = s.head_dim, kv = head / (s.num_heads / s.num_kv_heads);
    const float* query = &q[(static_cast<size_t>(t) * s.num_heads + head) * dim];
    Vector rotated = RotatedHead(query, s, t);
    // The list divides by the square root of the channels.
    const double cooler = s.temperature == 0 ? 1 : std::sqrt(dim) / s.temperature;
    for (double& value : rotated) value *= cooler;
    SoftmaxList list(rotated, rounding.dot_roundings);
    for (int p = 0; p <= t; ++p) {
      if (s.window != 0 && t - p >= s.window) continue;
      const size_t at = (static_cast<size_t>(p) * s.num_kv_heads + kv) * dim;
      // Roundings are of what was computed, whose error is far below a part in 1,000.
      const Vector key = RotatedHead(&k[at], s, p);
      const Vector value(&v[at], &v[at] + dim);
      list.Add(key, value, 1.001 * (rounding.query + rounding.key) * Norm(key),
               Magnitudes(value, rounding.value));
    }
    Vector out, error;
    list.Finish(&out, &error);
    for (int d = 0; d < dim; ++d) {
      expected.push_back(out[d]);
      tolerance.push_back(error[d] + rounding.result * (std::fabs(out[d]) + error[d]));
    }
  }

  std::vector<float> Draw(Random* random, int rows, int width, float scale) const {
    return rounding.operands(random->Normals(static_cast<size_t>(rows) * width, scale));
  }

  static Vector Magnitudes(Vector x, double times) {
    for (double& value : x) value = std::fabs(value) * times;
    return x;
  }
};

// The smallest ring that the contract allows.
inline int RingPages(const AttentionShape& s, int length) {
  const int all = (length + kBlockTokens - 1) / kBlockTokens;
  return s.window == 0 ? all : 1 + (s.window - 1 + kBlockTokens - 1) / kBlockTokens;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_ATTENTION_REFERENCE_H_
