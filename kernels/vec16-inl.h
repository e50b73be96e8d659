// Sixteen float lanes on every instruction set: one AVX-512 register, two of AVX2, four of SSE4.
// All kernels compute in these, so that what is added to what, and in which order, is the same
// whether the lanes hold sixteen channels of one token (decoding) or one channel of sixteen tokens
// (prompts). That is what makes both give the same bits.
//
// Included once per target through hwy/foreach_target.h.
#if defined(PACKRAT_KERNELS_VEC16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PACKRAT_KERNELS_VEC16_INL_H_
#undef PACKRAT_KERNELS_VEC16_INL_H_
#else
#define PACKRAT_KERNELS_VEC16_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "hwy/highway.h"
// Keep after highway.h.
#include "hwy/contrib/math/math-inl.h"
#if HWY_TARGET == HWY_AVX3
#include "kernels/transpose16.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Lanes = hn::CappedTag<float, 16>;
using Vec = hn::Vec<Lanes>;
constexpr int kVecLanes = static_cast<int>(hn::MaxLanes(Lanes()));
constexpr int kVecs = 16 / kVecLanes;

struct V16 {
  Vec v[kVecs];
};

#define PACKRAT_V16(expression)                          \
  V16 r;                                                 \
  const Lanes d;                                         \
  (void)d;                                               \
  for (int i = 0; i < kVecs; ++i) r.v[i] = (expression); \
  return r

// `Load` and `Store` need no alignment.
HWY_INLINE V16 Load(const float* p) { PACKRAT_V16(hn::LoadU(d, p + i * kVecLanes)); }
HWY_INLINE V16 Set(float x) { PACKRAT_V16(hn::Set(d, x)); }
HWY_INLINE V16 Zero() { PACKRAT_V16(hn::Zero(d)); }
HWY_INLINE void Store(const V16& a, float* p) {
  for (int i = 0; i < kVecs; ++i) hn::StoreU(a.v[i], Lanes(), p + i * kVecLanes);
}
HWY_INLINE V16 Add(const V16& a, const V16& b) { PACKRAT_V16(hn::Add(a.v[i], b.v[i])); }
HWY_INLINE V16 Sub(const V16& a, const V16& b) { PACKRAT_V16(hn::Sub(a.v[i], b.v[i])); }
HWY_INLINE V16 Mul(const V16& a, const V16& b) { PACKRAT_V16(hn::Mul(a.v[i], b.v[i])); }
HWY_INLINE V16 Div(const V16& a, const V16& b) { PACKRAT_V16(hn::Div(a.v[i], b.v[i])); }
HWY_INLINE V16 Max(const V16& a, const V16& b) { PACKRAT_V16(hn::Max(a.v[i], b.v[i])); }
HWY_INLINE V16 Min(const V16& a, const V16& b) { PACKRAT_V16(hn::Min(a.v[i], b.v[i])); }
// a * b + c, in one rounding where the target has it.
HWY_INLINE V16 MulAdd(const V16& a, const V16& b, const V16& c) {
  PACKRAT_V16(hn::MulAdd(a.v[i], b.v[i], c.v[i]));
}
HWY_INLINE V16 NegMulAdd(const V16& a, const V16& b, const V16& c) {  // c - a * b
  PACKRAT_V16(hn::NegMulAdd(a.v[i], b.v[i], c.v[i]));
}
// a > b ? yes : no, lane by lane.
HWY_INLINE V16 IfGreater(const V16& a, const V16& b, const V16& yes, const V16& no) {
  PACKRAT_V16(hn::IfThenElse(hn::Gt(a.v[i], b.v[i]), yes.v[i], no.v[i]));
}
// exp(a) for a <= 104 (garbage beyond); 0 for large negative arguments, -infinity included. A NaN
// stays a NaN (Highway's Exp() makes it 0), so that a bad score or gate shows in the result.
HWY_INLINE V16 Exp(const V16& a) {
#if HWY_TARGET == HWY_AVX3
  // The usual reduction to [-ln2/2, ln2/2] and a polynomial (coefficients of Cephes' expf), in half
  // the instructions of Highway's: VSCALEFPS knows where float32 ends, and a NaN passes it, as it
  // passes the maximum, which is the second operand where one is a NaN.
  const Lanes d;
  const Vec x = hn::Max(hn::Set(d, -110.0f), a.v[0]);
  const Vec n = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504f)));
  const Vec r =
      hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x));
  Vec p = hn::MulAdd(hn::Set(d, 1.9875691500e-4f), r, hn::Set(d, 1.3981999507e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1f));
  p = hn::Add(hn::MulAdd(hn::Mul(r, r), p, r), hn::Set(d, 1.0f));
  V16 result;
  result.v[0] = Vec{_mm512_maskz_scalef_ps(0xffff, p.raw, n.raw)};
  return result;
#else
  PACKRAT_V16(hn::IfThenElse(hn::Eq(a.v[i], a.v[i]), hn::Exp(d, a.v[i]), a.v[i]));
#endif
}
// exp(a) - 1 for a <= 88, with all its digits near zero too. Below -40 it is -1 (Highway's scales
// by powers of two that float32 does not have). A NaN stays a NaN.
HWY_INLINE V16 Expm1(const V16& a) {
  const V16 limit = Set(-40.0f), x = IfGreater(limit, a, limit, a);
  PACKRAT_V16(hn::IfThenElse(hn::Eq(x.v[i], x.v[i]), hn::Expm1(d, x.v[i]), x.v[i]));
}
HWY_INLINE V16 Sqrt(const V16& a) { PACKRAT_V16(hn::Sqrt(a.v[i])); }
HWY_INLINE V16 Sigmoid(const V16& a) {
  const V16 one = Set(1.0f), limit = Set(104.0f), minus = Sub(Zero(), a);
  // exp(104) is infinite in float32 already. (Min() of a NaN would be the limit.)
  return Div(one, Add(one, Exp(IfGreater(minus, limit, limit, minus))));
}
HWY_INLINE V16 Silu(const V16& a) { return Mul(a, Sigmoid(a)); }
// a (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (a + 0.044715 a^3), by way of (1 + tanh u) / 2 =
// sigmoid(2u), which keeps its digits where tanh is near -1.
HWY_INLINE V16 GeluTanh(const V16& a) {
  const V16 cubic = MulAdd(Mul(a, a), Set(0.0713548163f), Set(1.59576912f));
  return Mul(a, Sigmoid(Mul(a, cubic)));
}

#undef PACKRAT_V16

// The first n lanes from memory, zero in the others; reads nothing beyond p[n - 1].
HWY_INLINE V16 LoadFirst(const float* p, int n) {
  if (n >= 16) return Load(p);
  HWY_ALIGN float lanes[16] = {};
  std::memcpy(lanes, p, sizeof(float) * static_cast<size_t>(n > 0 ? n : 0));
  return Load(lanes);
}
HWY_INLINE void StoreFirst(const V16& a, int n, float* p) {
  if (n >= 16) return Store(a, p);
  HWY_ALIGN float lanes[16];
  Store(a, lanes);
  std::memcpy(p, lanes, sizeof(float) * static_cast<size_t>(n > 0 ? n : 0));
}

// Combines sixteen partial results in the order that all kernels use: lanes l and l + 8, then l and
// l + 4, l + 2, l + 1. TreeSum() below does the same over vectors.
template <class Op>
HWY_INLINE float Reduce(const V16& a, const Op& op) {
  HWY_ALIGN float x[16];
  Store(a, x);
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) x[l] = op(x[l], x[l + half]);
  }
  return x[0];
}

HWY_INLINE float SumLanes(const V16& a) {
#if HWY_TARGET == HWY_AVX3
  const hn::Half<Lanes> d8;
  const auto v8 = hn::Add(hn::LowerHalf(d8, a.v[0]), hn::UpperHalf(d8, a.v[0]));
#elif HWY_TARGET == HWY_AVX2
  const Lanes d8;
  const auto v8 = hn::Add(a.v[0], a.v[1]);
#endif
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  const hn::Half<decltype(d8)> d4;
  const auto v4 = hn::Add(hn::LowerHalf(d4, v8), hn::UpperHalf(d4, v8));
#else
  const auto v4 = hn::Add(hn::Add(a.v[0], a.v[2]), hn::Add(a.v[1], a.v[3]));
#endif
  const auto v2 = hn::Add(v4, hn::Shuffle1032(v4));
  return hn::GetLane(hn::Add(v2, hn::Shuffle2301(v2)));
}
HWY_INLINE float MaxLanes(const V16& a) {
  return Reduce(a, [](float x, float y) { return x > y ? x : y; });
}

// Lane r of the result is SumLanes() of vector r of sixteen. sums(four, v) gives vectors four[0] to
// four[3] in v[0] to v[3].
template <class Sums>
HWY_INLINE V16 SumRows(const Sums& sums) {
#if HWY_TARGET == HWY_AVX3
  // The halves of two vectors are added at once, then the quarters of four, and so on.
  __m512 quarters[4];
  for (int i = 0; i < 4; ++i) {
    const int four[] = {i, i + 4, i + 8, i + 12};
    V16 v[4];
    sums(four, v);
    const auto add = [](__m512 a, __m512 b) HWY_ATTR { return _mm512_add_ps(a, b); };
    const __m512 v0 = v[0].v[0].raw, v1 = v[1].v[0].raw, v2 = v[2].v[0].raw, v3 = v[3].v[0].raw;
    const __m512 low = add(_mm512_shuffle_f32x4(v0, v1, 0x44), _mm512_shuffle_f32x4(v0, v1, 0xee));
    const __m512 high = add(_mm512_shuffle_f32x4(v2, v3, 0x44), _mm512_shuffle_f32x4(v2, v3, 0xee));
    quarters[i] = add(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
  }
  const auto halve = [](__m512 a, __m512 b) HWY_ATTR {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
  };
  const __m512 low = halve(quarters[0], quarters[1]), high = halve(quarters[2], quarters[3]);
  V16 result;
  result.v[0] =
      Vec{_mm512_add_ps(_mm512_shuffle_ps(low, high, 0x88), _mm512_shuffle_ps(low, high, 0xdd))};
  return result;
#else
  HWY_ALIGN float lanes[16];
  for (int i = 0; i < 16; i += 4) {
    const int four[] = {i, i + 1, i + 2, i + 3};
    V16 v[4];
    sums(four, v);
    for (int r = 0; r < 4; ++r) lanes[i + r] = SumLanes(v[r]);
  }
  return Load(lanes);
#endif
}

// SumLanes() with the sixteen lanes lying in sixteen vectors: part(l) is vector l.
template <class Part>
HWY_INLINE V16 TreeSum(const Part& part) {
  V16 quarter[4];
  for (int l = 0; l < 4; ++l) {
    quarter[l] = Add(Add(part(l), part(l + 8)), Add(part(l + 4), part(l + 12)));
  }
  return Add(Add(quarter[0], quarter[2]), Add(quarter[1], quarter[3]));
}

// Sum of a[i] * b[i]; n a multiple of 16 (pad with zeros).
HWY_INLINE float Dot(const float* a, const float* b, int n) {
  V16 sum = Zero();
  for (int i = 0; i < n; i += 16) sum = MulAdd(Load(a + i), Load(b + i), sum);
  return SumLanes(sum);
}

// columns(d, width) for all vectors d of a row of `padded` floats, kWidth (a power of two) of them
// side by side, or at the end fewer.
template <int kWidth, class Columns>
HWY_INLINE void ForColumns(int padded, const Columns& columns, int d = 0) {
  for (; d + kWidth * 16 <= padded; d += kWidth * 16) {
    columns(d, std::integral_constant<int, kWidth>());
  }
  if constexpr (kWidth > 1) ForColumns<kWidth / 2>(padded, columns, d);
}

// Copies rows (n, width) with a stride to columns (width, 16) and zero in columns from n on.
HWY_INLINE void RowsToColumns(const float* rows, ptrdiff_t stride, int n, int width,
                              float* columns) {
  int i = 0;
#if HWY_TARGET == HWY_AVX3
  for (; i + 16 <= width; i += 16) {
    __m512i v[16];
    for (int t = 0; t < 16; ++t) {
      v[t] = t < n ? _mm512_loadu_si512(rows + t * stride + i) : _mm512_setzero_si512();
    }
    Transpose16(v);
    for (int c = 0; c < 16; ++c) _mm512_storeu_si512(columns + (i + c) * 16, v[c]);
  }
#endif
  for (; i < width; ++i) {
    for (int t = 0; t < n; ++t) columns[i * 16 + t] = rows[t * stride + i];
    for (int t = n; t < 16; ++t) columns[i * 16 + t] = 0.0f;
  }
}
HWY_INLINE void ColumnsToRows(const float* columns, int n, int width, float* rows,
                              ptrdiff_t stride) {
  int i = 0;
#if HWY_TARGET == HWY_AVX3
  for (; i + 16 <= width; i += 16) {
    __m512i v[16];
    for (int c = 0; c < 16; ++c) v[c] = _mm512_loadu_si512(columns + (i + c) * 16);
    Transpose16(v);
    for (int t = 0; t < n; ++t) _mm512_storeu_si512(rows + t * stride + i, v[t]);
  }
#endif
  for (int t = 0; t < n; ++t) {
    for (int c = i; c < width; ++c) rows[t * stride + c] = columns[c * 16 + t];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#endif  // PACKRAT_KERNELS_VEC16_INL_H_
