// Integer products with AVX2.
#include <immintrin.h>

#include "hwy/highway.h"
#include "kernels/quantized.h"

HWY_PUSH_ATTRIBUTES("avx2,f16c,fma")
namespace packrat::quantized_avx2 {

using Vec = __m256;
using Int = __m256i;
constexpr int kOutputs = 8;

HWY_INLINE Int LoadInt(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
HWY_INLINE void StoreInt(Int x, std::byte* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
}
HWY_INLINE Int BroadcastInt(int32_t x) { return _mm256_set1_epi32(x); }
HWY_INLINE Int LowHalves(Int x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
HWY_INLINE Int HighHalves(Int x) { return LowHalves(_mm256_srli_epi16(x, 4)); }
HWY_INLINE Vec LoadHalves(const std::byte* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
HWY_INLINE Vec Broadcast(float x) { return _mm256_set1_ps(x); }
HWY_INLINE Vec Zero() { return _mm256_setzero_ps(); }
HWY_INLINE Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
HWY_INLINE Vec MulAdd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
HWY_INLINE void StoreVec(Vec a, float* p) { _mm256_storeu_ps(p, a); }

// The instruction adds pairs of unsigned times signed bytes in 16 bits and saturates: a biased
// weight (up to 255) could. So the weight's sign goes to the input: 2 * 128 * 127 < 2^15.
struct Int8Dot {
  struct Weights {
    Int magnitude, sign;
  };
  Int sum;
  HWY_INLINE static Weights Prepare(Int biased) {
    const Int weights = _mm256_xor_si256(biased, _mm256_set1_epi8(-128));
    return {_mm256_abs_epi8(weights), weights};
  }
  HWY_INLINE void Start(int32_t) { sum = _mm256_setzero_si256(); }
  HWY_INLINE void Add(const Weights& weights, Int x) {
    const Int pairs = _mm256_maddubs_epi16(weights.magnitude, _mm256_sign_epi8(x, weights.sign));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  HWY_INLINE Vec Times(Vec scale) const { return Mul(_mm256_cvtepi32_ps(sum), scale); }
};

// A group fits 16 bits: 8 * 2 * 15 * 127 < 2^15.
struct Int4Dot {
  using Weights = Int;
  Int pairs;
  HWY_INLINE static Weights Prepare(Int weights) { return weights; }
  HWY_INLINE void Start(int32_t) { pairs = _mm256_setzero_si256(); }
  HWY_INLINE void Add(Weights weights, Int x) {
    pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(weights, x));
  }
  HWY_INLINE Vec Times(Vec scale) const {
    return Mul(_mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1))), scale);
  }
};

constexpr int kMaxRows = 4;
constexpr int Columns(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }

#include "kernels/quantized_tile-inl.h"

}  // namespace packrat::quantized_avx2
HWY_POP_ATTRIBUTES

namespace packrat {
const QuantKernels kQuantAvx2 = {"avx2",
                                 QuantizeRows,
                                 quantized_avx2::kMaxRows,
                                 quantized_avx2::Multiply,
                                 quantized_avx2::MultiplySpread,
                                 quantized_avx2::Spread};
}  // namespace packrat
