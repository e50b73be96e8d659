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
HWY_INLINE void StoreInt(Int x, std::byte* p) { _mm512_storeu_si512(p, x); }
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
HWY_INLINE Vec MulAdd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
HWY_INLINE void StoreVec(Vec a, float* p) { _mm512_storeu_ps(p, a); }

struct Dot {
  using Weights = Int;
  Int sum;
  HWY_INLINE static Weights Prepare(Int weights) { return weights; }
  HWY_INLINE void Add(Weights weights, Int x) { sum = _mm512_dpbusd_epi32(sum, weights, x); }
  HWY_INLINE Vec Times(Vec scale) const {
    return MulAdd(_mm512_castsi512_ps(sum), scale, Mul(scale, Broadcast(-kDotStartValue)));
  }
};
struct Int8Dot : Dot {
  HWY_INLINE void Start(int32_t start) { sum = _mm512_set1_epi32(start); }
};
struct Int4Dot : Dot {
  HWY_INLINE void Start(int32_t) { sum = _mm512_set1_epi32(kDotStart); }
};

// Sums of 6 x 2 tiles take 24 of 32 registers.
constexpr int kMaxRows = 6;
constexpr int Columns(int) { return 2; }

#include "kernels/quantized_tile-inl.h"

// QuantizeRows() with two registers to a group.
void Round(const float* x, ptrdiff_t stride, int n, int in, int32_t* to) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (int g = 0; g < in / kQuantGroup; ++g, to += n * kQuantWords) {
    for (int r = 0; r < n; ++r) {
      const float* from = x + r * stride + g * kQuantGroup;
      const __m512 low = _mm512_loadu_ps(from), high = _mm512_loadu_ps(from + 16);
      const __m512i largest =
          _mm512_maskz_max_epi32(kAll, _mm512_and_si512(_mm512_castps_si512(low), magnitude),
                                 _mm512_and_si512(_mm512_castps_si512(high), magnitude));
      const __m256i eight = _mm256_max_epi32(_mm512_maskz_extracti32x8_epi32(0xff, largest, 0),
                                             _mm512_maskz_extracti32x8_epi32(0xff, largest, 1));
      __m128i four =
          _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
      four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
      four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
      const QuantScale scale = QuantScaleOf(_mm_cvtss_f32(_mm_castsi128_ps(four)));
      const __m512 inverse = _mm512_set1_ps(scale.inverse);
      const auto round = [&](__m512 values) {
        return _mm512_maskz_cvtsepi32_epi8(
            kAll, _mm512_maskz_cvtps_epi32(kAll, _mm512_mul_ps(values, inverse)));
      };
      const __m256i bytes = _mm256_set_m128i(round(high), round(low));
      const __m256i sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes);
      __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
      sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
      sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
      alignas(32) int32_t quads[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(quads), bytes);
      for (int i = 0; i < 8; ++i) to[i * n + r] = quads[i];
      PutQuantScale(scale.scale, _mm_cvtsi128_si32(sum), n, to + r);
    }
  }
}

}  // namespace packrat::quantized_vnni
HWY_POP_ATTRIBUTES

namespace packrat {
const QuantKernels kQuantVnni = {"vnni",
                                 quantized_vnni::Round,
                                 quantized_vnni::kMaxRows,
                                 quantized_vnni::Multiply,
                                 quantized_vnni::MultiplySpread,
                                 quantized_vnni::Spread};
}  // namespace packrat
