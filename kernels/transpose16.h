// A 16 x 16 matrix of 32-bit values in sixteen registers of AVX-512, mirrored at its diagonal.
#ifndef PACKRAT_KERNELS_TRANSPOSE16_H_
#define PACKRAT_KERNELS_TRANSPOSE16_H_

#include "hwy/base.h"
// Keep before the attributes.
#include <immintrin.h>

namespace packrat {

HWY_PUSH_ATTRIBUTES("avx512f")

inline void Transpose16(__m512i* rows) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (int s = 8; s > 0; s /= 2) {  // Swaps the off-diagonal squares of size s.
    const __mmask16 upper = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(s));
    const __m512i step = _mm512_set1_epi32(16 - s), lift = _mm512_set1_epi32(16);
    const __m512i low = _mm512_mask_add_epi32(lane, upper, lane, step);
    const __m512i high =
        _mm512_mask_add_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(s)), upper, lane, lift);
    for (int i = 0; i < 16; ++i) {
      if ((i & s) != 0) continue;
      const __m512i a = rows[i], b = rows[i + s];
      rows[i] = _mm512_permutex2var_epi32(a, low, b);
      rows[i + s] = _mm512_permutex2var_epi32(a, high, b);
    }
  }
}

HWY_POP_ATTRIBUTES

}  // namespace packrat

#endif  // PACKRAT_KERNELS_TRANSPOSE16_H_
