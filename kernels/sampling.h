// Passes over one row of logits. Plain C++ in fixed lanes that every compiler turns into vector
// instructions, without dispatch: a few passes over 32,000 logits are nothing beside the matrix
// product that made them, and so a drawn token does not depend on the instruction set.
//
// Rows may hold -inf (an excluded token); no row may hold a NaN unless said so. Where elements are
// ranked, the order is total: larger value first, of equal values the lower index first.
#ifndef PACKRAT_KERNELS_SAMPLING_H_
#define PACKRAT_KERNELS_SAMPLING_H_

#include <cstdint>

namespace packrat {

struct IndexedValue {
  int32_t index;
  float value;
};

// The ranking above.
inline bool RanksBefore(const IndexedValue& a, const IndexedValue& b) {
  return a.value > b.value || (a.value == b.value && a.index < b.index);
}

// The first in rank of x[0, n). n >= 1.
IndexedValue ArgMax(const float* x, int n);

// Room that TopK() and TopKCut() need, in elements.
constexpr int TopKScratch(int k) { return 2 * k + 256; }

// The k first in rank of x[0, n), unordered, in scratch[0, min(k, n)); returns how many. `scratch`
// has TopKScratch(k) elements. k >= 1.
int TopK(const float* x, int n, int k, IndexedValue* scratch);

// The last in rank of those k.
IndexedValue TopKCut(const float* x, int n, int k, IndexedValue* scratch);

// Copies what ranks not after `cut` to out[0, n), in index order; returns how many.
int GatherFromCut(const float* x, int n, IndexedValue cut, IndexedValue* out);

// exp(x) for x <= 0 to 2e-7 relative; 0 below -87; exactly 1 at 0.
float ExpNonPositive(float x);

// w[i] = exp((x[i] - shift) * scale), 0 for -inf. Returns the sum, in the order that PickByMass()
// uses. shift >= all x, scale > 0 and finite. `w` may be `x`; null: only the sum.
double ExpSum(const float* x, int n, float shift, float scale, float* w);

// The index i of w[0, n) at which the running sum first exceeds `target`, in [0, sum of w). If
// rounding lets it run past the end, the last with w > 0; -1 if all are 0.
int PickByMass(const float* w, int n, double target);

// Of list[0, n), weights >= 0 of which some are > 0: the last in rank of the shortest prefix (in
// rank order) whose sum is at least `mass`; the last of all if there is none. Expected time O(n).
// Reorders the list.
IndexedValue TopMassCut(IndexedValue* list, int n, double mass);

}  // namespace packrat

#endif  // PACKRAT_KERNELS_SAMPLING_H_
