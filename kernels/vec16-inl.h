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

#include "hwy/highway.h"
// Keep after highway.h.
#include "hwy/contrib/math/math-inl.h"

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
// stays one, which Highway would make 0: a score or gate gone bad must be seen in the result.
HWY_INLINE V16 Exp(const V16& a) {
  PACKRAT_V16(hn::IfThenElse(hn::Eq(a.v[i], a.v[i]), hn::Exp(d, a.v[i]), a.v[i]));
}
HWY_INLINE V16 Sigmoid(const V16& a) {
  const V16 one = Set(1.0f), limit = Set(104.0f), minus = Sub(Zero(), a);
  // exp(104) is infinite in float32 already. (Min() of a NaN would be the limit.)
  return Div(one, Add(one, Exp(IfGreater(minus, limit, limit, minus))));
}
HWY_INLINE V16 Silu(const V16& a) { return Mul(a, Sigmoid(a)); }

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

// Combines sixteen partial results in the one order of this project: lanes l and l + 8, then l and
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

// Dot() for sixteen pairs side by side: a and b are (n, 16), one column per pair.
HWY_INLINE V16 DotColumns(const float* a, const float* b, int n) {
  return TreeSum([&](int l) HWY_ATTR {
    V16 sum = Zero();
    for (int i = l; i < n; i += 16) sum = MulAdd(Load(a + i * 16), Load(b + i * 16), sum);
    return sum;
  });
}

// Copies rows (n, width) with a stride to columns (width, 16) and zero in columns from n on.
HWY_INLINE void RowsToColumns(const float* rows, ptrdiff_t stride, int n, int width,
                              float* columns) {
  for (int i = 0; i < width; ++i) {
    for (int t = 0; t < n; ++t) columns[i * 16 + t] = rows[t * stride + i];
    for (int t = n; t < 16; ++t) columns[i * 16 + t] = 0.0f;
  }
}
HWY_INLINE void ColumnsToRows(const float* columns, int n, int width, float* rows,
                              ptrdiff_t stride) {
  for (int t = 0; t < n; ++t) {
    for (int i = 0; i < width; ++i) rows[t * stride + i] = columns[i * 16 + t];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#endif  // PACKRAT_KERNELS_VEC16_INL_H_
