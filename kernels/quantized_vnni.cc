// Integer products with AVX-512 VNNI: one instruction multiplies and adds four bytes in each of
// sixteen lanes.
#include <immintrin.h>

#include "hwy/highway.h"
#include "kernels/quantized.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")
namespace packrat::quantized_vnni {

using Vec = __m512;
using Int = __m512i;
constexpr int kOutputs = 16;

HWY_INLINE Int LoadInt(const std::byte* p) { return _mm512_loadu_si512(p); }
HWY_INLINE Int BroadcastInt(int32_t x) { return _mm512_set1_epi32(x); }
HWY_INLINE Int LowHalves(Int x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
HWY_INLINE Int HighHalves(Int x) { return LowHalves(_mm512_srli_epi16(x, 4)); }
// The intrinsics without a mask make gcc warn of uninitialised values. With a mask of all lanes
// they compile to the same instruction.
constexpr __mmask16 kAll = 0xffff;
HWY_INLINE Vec LoadHalves(const std::byte* p) {
  return _mm512_maskz_cvtph_ps(kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
HWY_INLINE Vec Broadcast(float x) { return _mm512_set1_ps(x); }
HWY_INLINE Vec Zero() { return _mm512_setzero_ps(); }
HWY_INLINE Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
HWY_INLINE Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
HWY_INLINE void StoreVec(Vec a, float* p) { _mm512_storeu_ps(p, a); }

struct Dot {
  using Weights = Int;
  Int sum;
  HWY_INLINE static Weights Prepare(Int weights) { return weights; }
  HWY_INLINE void Add(Weights weights, Int x) { sum = _mm512_dpbusd_epi32(sum, weights, x); }
  HWY_INLINE Vec Total() const { return _mm512_maskz_cvtepi32_ps(kAll, sum); }
};
struct Int8Dot : Dot {
  HWY_INLINE void Start(int32_t offset) { sum = _mm512_set1_epi32(offset); }
};
struct Int4Dot : Dot {
  HWY_INLINE void Start(int32_t) { sum = _mm512_setzero_si512(); }
};

// Sums of 6 x 2 tiles take 24 of 32 registers.
constexpr int kMaxRows = 6;
constexpr int Columns(int) { return 2; }

#include "kernels/quantized_tile-inl.h"

}  // namespace packrat::quantized_vnni
HWY_POP_ATTRIBUTES

namespace packrat {
const QuantKernels kQuantVnni = {"vnni", quantized_vnni::kMaxRows, quantized_vnni::Multiply};
}  // namespace packrat
