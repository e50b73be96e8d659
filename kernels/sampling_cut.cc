#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels/check.h"
#include "kernels/sampling.h"

namespace packrat {
namespace {

double Mass(const IndexedValue* begin, const IndexedValue* end) {
  double sum = 0;
  for (const IndexedValue* p = begin; p != end; ++p) sum += p->value;
  return sum;
}

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint32_t ToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

}  // namespace

IndexedValue TopMassCut(IndexedValue* list, int n, double mass) {
  PACKRAT_CHECK(n >= 1);
  IndexedValue* lo = list;
  IndexedValue* hi = list + n;
  // Quickselect by mass: invariant: the cut is in [lo, hi), and `mass` is what [lo, hi) must give.
  while (hi - lo > 32) {
    IndexedValue* mid = lo + (hi - lo) / 2;
    IndexedValue a = *lo, b = *mid, c = *(hi - 1);
    if (RanksBefore(b, a)) std::swap(a, b);
    if (RanksBefore(c, b)) b = RanksBefore(c, a) ? a : c;
    const IndexedValue pivot = b;
    IndexedValue* split =
        std::partition(lo, hi, [&](const IndexedValue& v) { return RanksBefore(v, pivot); });
    const double before = Mass(lo, split);
    if (before >= mass) {
      hi = split;
      continue;
    }
    // The pivot comes first of what follows, so that every round makes the list shorter.
    std::iter_swap(split, std::find_if(split, hi, [&](const IndexedValue& v) {
                     return v.index == pivot.index;
                   }));
    if (before + pivot.value >= mass || split + 1 == hi) return pivot;
    mass -= before + pivot.value;
    lo = split + 1;
  }
  std::sort(lo, hi, RanksBefore);
  double sum = 0;
  for (IndexedValue* p = lo; p != hi; ++p) {
    sum += p->value;
    if (sum >= mass) return *p;
  }
  return *(hi - 1);
}

IndexedValue TopMassCut(const float* w, int n, double sum, double share, IndexedValue* scratch) {
  // All weights below this have less than the rest together: the cut is above. Half of it, so that
  // no rounding matters.
  const double floor = 0.5 * (1 - share) * sum / n;
  // A search by halves among the bits of floats, which are in the order of what they mean, down to
  // a sixteenth of an octave, which holds few enough to select from. Invariant: the weights from
  // `high` on have less than the mass, namely `before`.
  constexpr uint32_t kFew = uint32_t{1} << (23 - 4);
  const double mass = share * sum;
  uint32_t low = ToBits(static_cast<float>(floor)), high = ToBits(1.0f) + 1;
  double before = 0;
  while (high - low > kFew) {
    const uint32_t middle = low + (high - low) / 2;
    const double from = MassFrom(w, n, FromBits(middle));
    if (from >= mass) {
      low = middle;
    } else {
      high = middle;
      before = from;
    }
  }
  const int size = GatherBetween(w, n, FromBits(low), FromBits(high), scratch);
  // Sums of floats round: where they reach the mass only with what comes after, that is all.
  if (size == 0) return {std::numeric_limits<int32_t>::max(), FromBits(low)};
  return TopMassCut(scratch, size, mass - before);
}

}  // namespace packrat
