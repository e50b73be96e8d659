// Rotary position embedding, rotate-half convention: with the halves (x1, x2) of a head,
// (x1 cos - x2 sin, x2 cos + x1 sin).
#ifndef PACKRAT_KERNELS_ROPE_H_
#define PACKRAT_KERNELS_ROPE_H_

#include <cstdint>
#include <vector>

#include "kernels/aligned.h"

namespace packrat {

// Cosines and sines of the tokens of a batch, shared by all heads and by all layers of equal base
// and head size. Angles are formed in double precision: position / base^(2i / head_dim).
class RopeTable {
 public:
  // head_dim even. `divisor`: RAT rotates by chunk index, position / chunk_size; else 1.
  RopeTable(double base, int head_dim, int divisor, int max_tokens);

  // Row `token` is set for a token at `position`.
  void Set(int token, int64_t position);

  // (head_dim / 2) cosines, then as many sines.
  const float* row(int token) const {
    return table_.data() + static_cast<size_t>(token) * head_dim_;
  }
  bool Is(double base, int head_dim, int divisor) const {
    return base == base_ && head_dim == head_dim_ && divisor == divisor_;
  }
  // For so many tokens.
  size_t BytesFor(int tokens) const { return sizeof(float) * head_dim_ * tokens; }

 private:
  double base_;
  int head_dim_, divisor_;
  std::vector<double> frequencies_;  // (head_dim / 2)
  AlignedFloats table_;              // (max_tokens, head_dim)
};

// Rotates one head in place or to `out`. cos_sin: a RopeTable row.
inline void Rotate(const float* x, const float* cos_sin, int head_dim, float* out) {
  const int half = head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float x1 = x[i], x2 = x[i + half], c = cos_sin[i], s = cos_sin[i + half];
    out[i] = x1 * c - x2 * s;
    out[i + half] = x2 * c + x1 * s;
  }
}

}  // namespace packrat

#endif  // PACKRAT_KERNELS_ROPE_H_
