// The softmax of attention in bfloat16, and the registers' helpers: what attention_bf16.cc does
// between its two products.
#ifndef PACKRAT_KERNELS_ATTENTION_BF16_INL_H_
#define PACKRAT_KERNELS_ATTENTION_BF16_INL_H_

#include <algorithm>
#include <cstdint>
#include <limits>

#include "hwy/base.h"
#include "kernels/batch.h"
// Keep before the attributes.
#include <immintrin.h>

namespace packrat {
namespace {

constexpr int kLanes = 16;  // float32 in a register, or pairs of bfloat16.
static_assert(kLanes == kBlockTokens);
constexpr float kNoMaximum = -1e30f;  // Finite, so that the difference of two is zero, not NaN.

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

__mmask16 FirstLanes(int n) {
  return static_cast<__mmask16>(n >= kLanes ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
}

__m256i Round(__m512 x) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)); }

// The intrinsics without a mask make gcc warn of uninitialised values. With a mask of all lanes
// they compile to the same instruction.
constexpr __mmask16 kAll = 0xffff;

// 2^x for x <= 0, to 7e-6; far less than rounding to bfloat16 takes away. Exactly 1 at 0; a NaN
// stays one. Zero in the other lanes. An interpolation of (2^r - 1) / r at Chebyshev's points.
__m512 Exp2(__mmask16 lanes, __m512 x) {
  const __m512 r = _mm512_maskz_reduce_ps(kAll, x, 0);  // From the nearest integer.
  __m512 p = _mm512_set1_ps(0.00965671055f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.0558382832f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.2402253f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.693136752f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(lanes, p, _mm512_sub_ps(x, r));
}

// The lanes, combined as a tree: l and l + 8, then l and l + 4, l + 2, l + 1.
template <class Op>
HWY_INLINE float Combine(__m512 x, const Op& op) {
  const __m256 low = _mm512_maskz_extractf32x8_ps(0xff, x, 0),
               high = _mm512_maskz_extractf32x8_ps(0xff, x, 1);
  const __m128 four = op(op(_mm256_castps256_ps128(low), _mm256_castps256_ps128(high)),
                         op(_mm256_extractf128_ps(low, 1), _mm256_extractf128_ps(high, 1)));
  const __m128 two = op(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(op(two, _mm_movehdup_ps(two)));
}
float SumLanes(__m512 x) {
  return Combine(x, [](__m128 a, __m128 b) { return _mm_add_ps(a, b); });
}
float MaxLanes(__m512 x) {
  return Combine(x, [](__m128 a, __m128 b) { return _mm_max_ps(a, b); });
}

// What a row sees, and its softmax so far. Scores are logarithms to base 2.
struct Row {
  int first, end;  // Entries [first, end).
  float maximum, total;

  __mmask16 Sees(int entry) const {  // Of the sixteen from `entry` on.
    if (first <= entry && entry + kLanes <= end) return 0xffff;
    return FirstLanes(end - entry) & ~FirstLanes(first - entry);
  }
};

// Turns the products of `blocks` blocks, from entry `begin` on, times `scale`, which is above zero,
// into weights, and scales down what the row has summed so far.
void Weigh(int begin, int blocks, int padded, float scale, Row* row, float* scores, float* out) {
  __m512 best = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  for (int b = 0; b < blocks; ++b) {
    best = _mm512_mask_max_ps(best, row->Sees(begin + b * kLanes), best,
                              _mm512_loadu_ps(scores + b * kLanes));
  }
  const float old = row->maximum;
  row->maximum = std::max(old, MaxLanes(best) * scale);
  const __m512 maximum = _mm512_set1_ps(row->maximum), scales = _mm512_set1_ps(scale);
  const auto weights_of = [&](int b) {
    const __m512 score = _mm512_mul_ps(_mm512_loadu_ps(scores + b * kLanes), scales);
    return Exp2(row->Sees(begin + b * kLanes), _mm512_sub_ps(score, maximum));
  };
  __m512 sum = _mm512_setzero_ps();
  for (int b = 0; b < blocks; b += 2) {
    const __m512 low = weights_of(b),
                 high = b + 1 < blocks ? weights_of(b + 1) : _mm512_setzero_ps();
    sum = _mm512_add_ps(_mm512_add_ps(sum, low), high);
    _mm512_storeu_si512(scores + b * kLanes / 2,
                        reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }
  const __m512 shrink = Exp2(kAll, _mm512_set1_ps(old - row->maximum));
  row->total = row->total * _mm512_cvtss_f32(shrink) + SumLanes(sum);
  for (int d = 0; d < padded; d += 2 * kLanes) {
#pragma GCC unroll 16
    for (int c = 0; c < 2; ++c) {
      float* sums = out + d + c * kLanes;
      _mm512_storeu_ps(sums, _mm512_mul_ps(_mm512_loadu_ps(sums), shrink));
    }
  }
}

// to (dim) = out / total, in the order of channels.
void Finish(const float* out, float total, int dim, float* to) {
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  for (int d = 0; d < dim; d += 2 * kLanes) {
    // Adding zero makes -0, which depends on how many unseen entries were added, to 0.
    const auto take = [&](int c) {
      return _mm512_add_ps(
          _mm512_div_ps(_mm512_loadu_ps(out + d + c * kLanes), _mm512_set1_ps(total)),
          _mm512_setzero_ps());
    };
    const __m512 a = take(0), b = take(1);
    _mm512_mask_storeu_ps(to + d, FirstLanes(dim - d), _mm512_permutex2var_ps(a, low, b));
    _mm512_mask_storeu_ps(to + d + kLanes, FirstLanes(dim - d - kLanes),
                          _mm512_permutex2var_ps(a, high, b));
  }
}

HWY_POP_ATTRIBUTES

}  // namespace
}  // namespace packrat

#endif  // PACKRAT_KERNELS_ATTENTION_BF16_INL_H_
