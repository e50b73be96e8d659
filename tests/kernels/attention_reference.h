// Attention token by token in double precision.
#ifndef PACKRAT_TESTS_KERNELS_ATTENTION_REFERENCE_H_
#define PACKRAT_TESTS_KERNELS_ATTENTION_REFERENCE_H_

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

struct AttentionText {
  int length;
  Storage storage;
  double dot_roundings;  // See SoftmaxList.
  std::vector<float> q, k, v;
  Vector expected, tolerance;  // (length, heads * dim)

  AttentionText(Random* random, const AttentionShape& s, int n, float scale,
                Storage storage_type = {}, double roundings = 0)
      : length(n),
        storage(storage_type),
        dot_roundings(roundings),
        q(storage(random->Normals(static_cast<size_t>(n) * s.num_heads * s.head_dim, scale))),
        k(storage(random->Normals(static_cast<size_t>(n) * s.num_kv_heads * s.head_dim, scale))),
        v(storage(random->Normals(static_cast<size_t>(n) * s.num_kv_heads * s.head_dim))) {
    for (int t = 0; t < n; ++t) {
      for (int head = 0; head < s.num_heads; ++head) Attend(s, t, head);
    }
  }

  void Attend(const AttentionShape& s, int t, int head) {
    const int dim = s.head_dim, kv = head / (s.num_heads / s.num_kv_heads);
    const float* query = &q[(static_cast<size_t>(t) * s.num_heads + head) * dim];
    SoftmaxList list(RotatedHead(query, s, t), dot_roundings);
    for (int p = 0; p <= t; ++p) {
      if (s.window != 0 && t - p >= s.window) continue;
      const size_t at = (static_cast<size_t>(p) * s.num_kv_heads + kv) * dim;
      // The page's rounding is of what was computed, whose error is far below a part in 1,000.
      const Vector key = RotatedHead(&k[at], s, p);
      list.Add(key, Vector(&v[at], &v[at] + dim), 1.001 * storage.rounding() * Norm(key),
               Vector(dim));
    }
    Vector out, error;
    list.Finish(&out, &error);
    for (int d = 0; d < dim; ++d) {
      expected.push_back(out[d]);
      tolerance.push_back(error[d] + storage.rounding() * (std::fabs(out[d]) + error[d]));
    }
  }
};

// The smallest ring that the contract allows.
inline int RingPages(const AttentionShape& s, int length) {
  const int all = (length + kBlockTokens - 1) / kBlockTokens;
  return s.window == 0 ? all : 1 + (s.window - 1 + kBlockTokens - 1) / kBlockTokens;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_ATTENTION_REFERENCE_H_
