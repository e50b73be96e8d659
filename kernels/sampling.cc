#include "kernels/sampling.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sampling.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/vec16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

// Elements whose sum is taken in float32 before it is added to the running double.
constexpr int kSumBlock = 256;

// Bit l is set where compare(vector, vector) holds in lane l.
template <class Compare>
HWY_INLINE uint32_t LaneBits(const V16& a, const V16& b, const Compare& compare) {
  uint32_t bits = 0;
  for (int i = 0; i < kVecs; ++i) {
    uint8_t bytes[8] = {};
    hn::StoreMaskBits(Lanes(), compare(a.v[i], b.v[i]), bytes);
    bits |= static_cast<uint32_t>(bytes[0] | bytes[1] << 8) << (i * kVecLanes);
  }
  return bits;
}

constexpr auto kAtLeast = [](Vec x, Vec y) HWY_ATTR { return hn::Ge(x, y); };
constexpr auto kGreater = [](Vec x, Vec y) HWY_ATTR { return hn::Gt(x, y); };

HWY_INLINE bool AnyGreater(const V16& a, const V16& b) { return LaneBits(a, b, kGreater) != 0; }

// Sum of n <= kSumBlock elements in a fixed order: that of 16 lanes, and Reduce()'s of them.
HWY_INLINE float BlockSum(const float* w, int n) {
  V16 sum = Zero();
  for (int i = 0; i < n; i += 16) sum = Add(sum, LoadFirst(w + i, n - i));
  return SumLanes(sum);
}

// ExpNonPositive() says in plain arithmetic what the compiler makes vector instructions of: in the
// order of the GPU, which contracts nothing.
HWY_INLINE void ExpBlock(const float* x, int n, float shift, float scale, float* w) {
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int l = 0; l < 16; ++l) w[i + l] = ExpNonPositive((x[i + l] - shift) * scale);
  }
  for (; i < n; ++i) w[i] = ExpNonPositive((x[i] - shift) * scale);
}

IndexedValue ArgMaxTarget(const float* x, int n) {
  V16 best = Set(x[0]);
  int i = 0;
  // Four at a time, as one maximum waits for the one before it.
  for (; i + 64 <= n; i += 64) {
    best =
        Max(best, Max(Max(Load(x + i), Load(x + i + 16)), Max(Load(x + i + 32), Load(x + i + 48))));
  }
  float value = MaxLanes(best);
  for (; i < n; ++i) value = std::max(value, x[i]);
  const V16 largest = Set(value);
  for (i = 0; i + 16 <= n; i += 16) {
    const uint32_t at =
        LaneBits(Load(x + i), largest, [](Vec a, Vec b) HWY_ATTR { return hn::Eq(a, b); });
    if (at != 0) return {i + __builtin_ctz(at), x[i + __builtin_ctz(at)]};
  }
  while (x[i] != value) ++i;
  return {i, x[i]};
}

int TopKTarget(const float* x, int n, int k, IndexedValue* scratch) {
  if (k > n) k = n;
  const int capacity = TopKScratch(k);
  int size = 0;
  // Once k are known, only what is larger than the k-th can be among them: an equal value further
  // on ranks behind it. Most vectors are then skipped after one look.
  bool full = false;
  float bar = 0;
  const auto trim = [&] {
    std::nth_element(scratch, scratch + k - 1, scratch + size, RanksBefore);
    size = k;
    bar = scratch[k - 1].value;
    full = true;
  };
  const auto offer = [&](int i) {
    if (full && !(x[i] > bar)) return;
    scratch[size++] = {i, x[i]};
    if (size == capacity || (!full && size == 2 * k)) trim();
  };
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    if (full && !AnyGreater(Load(x + i), Set(bar))) continue;
    for (int l = 0; l < 16; ++l) offer(i + l);
  }
  for (; i < n; ++i) offer(i);
  trim();
  return k;
}

int GatherFromCutTarget(const float* x, int n, IndexedValue cut, IndexedValue* out) {
  const V16 bar = Set(cut.value);
  int size = 0;
  const auto offer = [&](int i) {
    out[size] = {i, x[i]};
    size += static_cast<int>((x[i] > cut.value) | ((x[i] == cut.value) & (i <= cut.index)));
  };
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    uint32_t left = LaneBits(Load(x + i), bar, kAtLeast);
    for (; left != 0; left &= left - 1) offer(i + __builtin_ctz(left));
  }
  for (; i < n; ++i) offer(i);
  return size;
}

int GatherBetweenTarget(const float* x, int n, float low, float high, IndexedValue* out) {
  int size = 0, i = 0;
  for (; i + 16 <= n; i += 16) {
    const V16 v = Load(x + i);
    uint32_t left = LaneBits(v, Set(low), kAtLeast) & LaneBits(Set(high), v, kGreater);
    for (; left != 0; left &= left - 1) {
      const int at = i + __builtin_ctz(left);
      out[size++] = {at, x[at]};
    }
  }
  for (; i < n; ++i) {
    if (x[i] >= low && x[i] < high) out[size++] = {i, x[i]};
  }
  return size;
}

// a where compare(a, bar), else 0.
template <class Compare>
HWY_INLINE V16 ZeroUnless(const V16& a, const V16& bar, const Compare& compare) {
  V16 kept;
  for (int i = 0; i < kVecs; ++i) {
    kept.v[i] = hn::IfThenElseZero(compare(a.v[i], bar.v[i]), a.v[i]);
  }
  return kept;
}

double MassFromTarget(const float* w, int n, float bar) {
  double mass = 0;
  for (int begin = 0; begin < n; begin += kSumBlock) {
    V16 sum = Zero();
    for (int i = begin; i < std::min(begin + kSumBlock, n); i += 16) {
      sum = Add(sum, ZeroUnless(LoadFirst(w + i, n - i), Set(bar), kAtLeast));
    }
    mass += SumLanes(sum);
  }
  return mass;
}

double KeepFromCutTarget(IndexedValue cut, int n, float* w) {
  const V16 bar = Set(cut.value);
  // Of those that equal the cut's, the ones up to its index: the rest of its sixteen one by one.
  const int equals = std::min(cut.index, n - 1) / 16 * 16;
  for (int i = 0; i < equals; i += 16) Store(ZeroUnless(Load(w + i), bar, kAtLeast), w + i);
  for (int i = equals; i < std::min(equals + 16, n); ++i) {
    if (RanksBefore(cut, {i, w[i]})) w[i] = 0.0f;
  }
  for (int i = equals + 16; i < n; i += 16) {
    StoreFirst(ZeroUnless(LoadFirst(w + i, n - i), bar, kGreater), n - i, w + i);
  }
  double mass = 0;
  for (int i = 0; i < n; i += kSumBlock) mass += BlockSum(w + i, std::min(kSumBlock, n - i));
  return mass;
}

double ExpSumTarget(const float* x, int n, float shift, float scale, float* w) {
  double sum = 0;
  float block[kSumBlock];
  for (int i = 0; i < n; i += kSumBlock) {
    const int count = std::min(kSumBlock, n - i);
    float* out = w != nullptr ? w + i : block;
    ExpBlock(x + i, count, shift, scale, out);
    sum += BlockSum(out, count);
  }
  return sum;
}

double EntropySumTarget(const float* x, int n, float shift) {
  double sum = 0;
  float block[kSumBlock];
  for (int i = 0; i < n; i += kSumBlock) {
    const int count = std::min(kSumBlock, n - i);
    ExpBlock(x + i, count, shift, 1.0f, block);
    for (int j = 0; j < count; ++j) block[j] = block[j] > 0 ? block[j] * (shift - x[i + j]) : 0;
    sum += BlockSum(block, count);
  }
  return sum;
}

int PickByMassTarget(const float* w, int n, double target) {
  int begin = -1;  // The block to look into.
  double before = 0, sum = 0;
  for (int i = 0; i < n; i += kSumBlock) {
    const double block = BlockSum(w + i, std::min(kSumBlock, n - i));
    if (block == 0) continue;
    begin = i;
    before = sum;
    sum += block;
    if (sum > target) break;
  }
  if (begin < 0) return -1;
  // Element by element the sum may come out a rounding smaller than the block's: then it is the
  // last.
  int last_positive = -1;
  for (int i = begin; i < std::min(begin + kSumBlock, n); ++i) {
    if (w[i] > 0) last_positive = i;
    before += w[i];
    if (before > target && last_positive >= 0) break;
  }
  return last_positive;
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace packrat {

HWY_EXPORT(ArgMaxTarget);
HWY_EXPORT(TopKTarget);
HWY_EXPORT(GatherFromCutTarget);
HWY_EXPORT(GatherBetweenTarget);
HWY_EXPORT(MassFromTarget);
HWY_EXPORT(KeepFromCutTarget);
HWY_EXPORT(ExpSumTarget);
HWY_EXPORT(EntropySumTarget);
HWY_EXPORT(PickByMassTarget);

IndexedValue ArgMax(const float* x, int n) {
  PACKRAT_CHECK(n >= 1);
  return HWY_DYNAMIC_DISPATCH(ArgMaxTarget)(x, n);
}

int TopK(const float* x, int n, int k, IndexedValue* scratch) {
  PACKRAT_CHECK(k >= 1 && n >= 1);
  return HWY_DYNAMIC_DISPATCH(TopKTarget)(x, n, k, scratch);
}

IndexedValue TopKCut(const float* x, int n, int k, IndexedValue* scratch) {
  const int found = TopK(x, n, k, scratch);
  return *std::max_element(scratch, scratch + found, RanksBefore);
}

int GatherFromCut(const float* x, int n, IndexedValue cut, IndexedValue* out) {
  return HWY_DYNAMIC_DISPATCH(GatherFromCutTarget)(x, n, cut, out);
}

int GatherBetween(const float* x, int n, float low, float high, IndexedValue* out) {
  return HWY_DYNAMIC_DISPATCH(GatherBetweenTarget)(x, n, low, high, out);
}

double MassFrom(const float* w, int n, float bar) {
  return HWY_DYNAMIC_DISPATCH(MassFromTarget)(w, n, bar);
}

double KeepFromCut(IndexedValue cut, int n, float* w) {
  return HWY_DYNAMIC_DISPATCH(KeepFromCutTarget)(cut, n, w);
}

double ExpSum(const float* x, int n, float shift, float scale, float* w) {
  return HWY_DYNAMIC_DISPATCH(ExpSumTarget)(x, n, shift, scale, w);
}

double EntropySum(const float* x, int n, float shift) {
  return HWY_DYNAMIC_DISPATCH(EntropySumTarget)(x, n, shift);
}

int PickByMass(const float* w, int n, double target) {
  return HWY_DYNAMIC_DISPATCH(PickByMassTarget)(w, n, target);
}

}  // namespace packrat
#endif  // HWY_ONCE
