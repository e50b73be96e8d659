// Integer products with SSE4.
#include <immintrin.h>

#include "hwy/highway.h"
#include "kernels/quantized.h"

HWY_PUSH_ATTRIBUTES("sse4.1,ssse3")
namespace packrat::quantized_sse4 {

using Vec = __m128;
using Int = __m128i;
constexpr int kOutputs = 4;

HWY_INLINE Int LoadInt(const std::byte* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
HWY_INLINE void StoreInt(Int x, std::byte* p) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x);
}
HWY_INLINE Int BroadcastInt(int32_t x) { return _mm_set1_epi32(x); }
HWY_INLINE Int LowHalves(Int x) { return _mm_and_si128(x, _mm_set1_epi8(15)); }
HWY_INLINE Int HighHalves(Int x) { return LowHalves(_mm_srli_epi16(x, 4)); }
HWY_INLINE Vec LoadHalves(const std::byte* p) {
  // No instruction for it: exponent and mantissa move to their places, and an addition sets the
  // exponent right. A half's subnormals have one more and a leading one, which is taken away again.
  // There are no infinities and NaNs.
  const Int half = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const Int magnitude = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x7fff)), 13);
  const Int sign = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x8000)), 16);
  const __m128 normal = _mm_castsi128_ps(_mm_add_epi32(magnitude, _mm_set1_epi32(112 << 23)));
  const __m128 subnormal = _mm_sub_ps(
      _mm_castsi128_ps(_mm_add_epi32(magnitude, _mm_set1_epi32(113 << 23))), _mm_set1_ps(0x1p-14f));
  const Int small = _mm_cmplt_epi32(magnitude, _mm_set1_epi32(1 << 23));
  return _mm_or_ps(_mm_blendv_ps(normal, subnormal, _mm_castsi128_ps(small)),
                   _mm_castsi128_ps(sign));
}
HWY_INLINE Vec Broadcast(float x) { return _mm_set1_ps(x); }
HWY_INLINE Vec Zero() { return _mm_setzero_ps(); }
HWY_INLINE Vec Mul(Vec a, Vec b) { return _mm_mul_ps(a, b); }
HWY_INLINE Vec MulAdd(Vec a, Vec b, Vec c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
HWY_INLINE void StoreVec(Vec a, float* p) { _mm_storeu_ps(p, a); }

// The instruction adds pairs of unsigned times signed bytes in 16 bits and saturates: a biased
// weight (up to 255) could. So the weight's sign goes to the input: 2 * 128 * 127 < 2^15.
struct Int8Dot {
  struct Weights {
    Int magnitude, sign;
  };
  Int sum;
  HWY_INLINE static Weights Prepare(Int biased) {
    const Int weights = _mm_xor_si128(biased, _mm_set1_epi8(-128));
    return {_mm_abs_epi8(weights), weights};
  }
  HWY_INLINE void Start(int32_t) { sum = _mm_setzero_si128(); }
  HWY_INLINE void Add(const Weights& weights, Int x) {
    const Int pairs = _mm_maddubs_epi16(weights.magnitude, _mm_sign_epi8(x, weights.sign));
    sum = _mm_add_epi32(sum, _mm_madd_epi16(pairs, _mm_set1_epi16(1)));
  }
  HWY_INLINE Vec Times(Vec scale) const { return Mul(_mm_cvtepi32_ps(sum), scale); }
};

// A group fits 16 bits: 8 * 2 * 15 * 127 < 2^15.
struct Int4Dot {
  using Weights = Int;
  Int pairs;
  HWY_INLINE static Weights Prepare(Int weights) { return weights; }
  HWY_INLINE void Start(int32_t) { pairs = _mm_setzero_si128(); }
  HWY_INLINE void Add(Weights weights, Int x) {
    pairs = _mm_add_epi16(pairs, _mm_maddubs_epi16(weights, x));
  }
  HWY_INLINE Vec Times(Vec scale) const {
    return Mul(_mm_cvtepi32_ps(_mm_madd_epi16(pairs, _mm_set1_epi16(1))), scale);
  }
};

constexpr int kMaxRows = 4;
constexpr int Columns(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }

#include "kernels/quantized_tile-inl.h"

}  // namespace packrat::quantized_sse4
HWY_POP_ATTRIBUTES

namespace packrat {
const QuantKernels kQuantSse4 = {"sse4",
                                 QuantizeRows,
                                 quantized_sse4::kMaxRows,
                                 quantized_sse4::Multiply,
                                 quantized_sse4::MultiplySpread,
                                 quantized_sse4::Spread};
}  // namespace packrat
