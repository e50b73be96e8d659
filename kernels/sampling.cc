#include "kernels/sampling.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/check.h"

namespace packrat {
namespace {

// Loops over a constant number of lanes become vector instructions even at -O2.
constexpr int kLanes = 16;
// Elements whose sum is taken in float32 before it is added to the running double.
constexpr int kSumBlock = 256;

float Max16(const float* x) {
  float lanes[kLanes];
  std::memcpy(lanes, x, sizeof(lanes));
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i)
      lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  }
  return lanes[0];
}

// Sum of n <= kSumBlock elements in a fixed order.
double BlockSum(const float* w, int n) {
  float lanes[kLanes] = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) lanes[l] += w[i + l];
  }
  for (int l = 0; i < n; ++i, ++l) lanes[l] += w[i];
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

void ExpBlock(const float* x, int n, float shift, float scale, float* w) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) w[i + l] = ExpNonPositive((x[i + l] - shift) * scale);
  }
  for (; i < n; ++i) w[i] = ExpNonPositive((x[i] - shift) * scale);
}

double Mass(const IndexedValue* begin, const IndexedValue* end) {
  double sum = 0;
  for (const IndexedValue* p = begin; p != end; ++p) sum += p->value;
  return sum;
}

}  // namespace

IndexedValue ArgMax(const float* x, int n) {
  PACKRAT_CHECK(n >= 1);
  IndexedValue best{0, x[0]};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    if (!(Max16(x + i) > best.value)) continue;
    for (int l = 0; l < kLanes; ++l) {
      if (x[i + l] > best.value) best = {i + l, x[i + l]};
    }
  }
  for (; i < n; ++i) {
    if (x[i] > best.value) best = {i, x[i]};
  }
  return best;
}

int TopK(const float* x, int n, int k, IndexedValue* scratch) {
  PACKRAT_CHECK(k >= 1 && n >= 1);
  if (k > n) k = n;
  const int capacity = TopKScratch(k);
  int size = 0;
  // Once k are known, only what is larger than the k-th can be among them: an equal value further
  // on ranks behind it. Most blocks are then skipped after one look at their maximum.
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
  for (; i + kLanes <= n; i += kLanes) {
    if (full && !(Max16(x + i) > bar)) continue;
    for (int l = 0; l < kLanes; ++l) offer(i + l);
  }
  for (; i < n; ++i) offer(i);
  trim();
  return k;
}

IndexedValue TopKCut(const float* x, int n, int k, IndexedValue* scratch) {
  const int found = TopK(x, n, k, scratch);
  return *std::max_element(scratch, scratch + found, RanksBefore);
}

int GatherFromCut(const float* x, int n, IndexedValue cut, IndexedValue* out) {
  int size = 0;
  const auto offer = [&](int i) {
    if (x[i] > cut.value || (x[i] == cut.value && i <= cut.index)) out[size++] = {i, x[i]};
  };
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    if (Max16(x + i) < cut.value) continue;
    for (int l = 0; l < kLanes; ++l) offer(i + l);
  }
  for (; i < n; ++i) offer(i);
  return size;
}

double ExpSum(const float* x, int n, float shift, float scale, float* w) {
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

double EntropySum(const float* x, int n, float shift) {
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

int PickByMass(const float* w, int n, double target) {
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

namespace {

// A histogram of weights in [0, 1] by their size, sixteen bins to a factor of two; all below 2^-40
// share one. Four copies, so that neighbours, which often fall into one bin, need not wait for each
// other's sum.
class MassHistogram {
 public:
  static constexpr int kCopies = 4;

  MassHistogram(const float* w, int n) {
    int i = 0;
    for (; i + kCopies <= n; i += kCopies) {
      for (int c = 0; c < kCopies; ++c) mass_[c][Bin(w[i + c])] += w[i + c];
    }
    for (; i < n; ++i) mass_[0][Bin(w[i])] += w[i];
  }

  static int Bin(float w) {
    uint32_t bits;
    std::memcpy(&bits, &w, sizeof bits);
    return std::clamp(static_cast<int>(bits >> kShift) - kFirst, 0, kBins - 1);
  }

  // The smallest weight of a bin; of the one after the last: more than 1.
  static float Low(int bin) {
    if (bin == 0) return 0.0f;
    const uint32_t bits = static_cast<uint32_t>(bin + kFirst) << kShift;
    float low;
    std::memcpy(&low, &bits, sizeof low);
    return low;
  }

  // The bin in which the sum from the largest weights down reaches `mass`, and the sum before it;
  // the last that has any if it does not.
  int Reaches(double mass, double* before) const {
    double sum = 0;
    int found = kBins - 1;
    for (int bin = kBins - 1; bin >= 0; --bin) {
      double in_bin = 0;
      for (const auto& copy : mass_) in_bin += copy[bin];
      if (in_bin == 0) continue;
      found = bin;
      *before = sum;
      sum += in_bin;
      if (sum >= mass) break;
    }
    return found;
  }

 private:
  static constexpr int kShift = 23 - 4;                  // Sign, exponent, four bits.
  static constexpr int kFirst = ((127 - 40) << 4) - 1;   // Of 2^-40, less the bin for all below.
  static constexpr int kBins = (127 << 4) + 1 - kFirst;  // The last is that of 1.
  double mass_[kCopies][kBins] = {};
};

}  // namespace

IndexedValue TopMassCut(const float* w, int n, double mass, IndexedValue* scratch) {
  double before = 0;
  const int bin = MassHistogram(w, n).Reaches(mass, &before);
  const float low = MassHistogram::Low(bin), high = MassHistogram::Low(bin + 1);
  const auto inside = [&](int i) { return (w[i] >= low) & (w[i] < high); };
  int size = 0, i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    int any = 0;
    for (int l = 0; l < kLanes; ++l) any |= inside(i + l);
    if (any == 0) continue;
    for (int l = 0; l < kLanes; ++l) {
      scratch[size] = {i + l, w[i + l]};
      size += inside(i + l);
    }
  }
  for (; i < n; ++i) {
    scratch[size] = {i, w[i]};
    size += inside(i);
  }
  return TopMassCut(scratch, size, mass - before);
}

int PickFromCut(const float* w, int n, IndexedValue cut, double uniform, double* sums) {
  const auto kept = [&](int i) {
    // No branch: which weights are kept follows no pattern.
    const bool keep = (w[i] > cut.value) | ((w[i] == cut.value) & (i <= cut.index));
    return w[i] * static_cast<float>(keep);
  };
  // A sum of one chain, whatever is left out: 0 changes nothing.
  double total = 0;
  int blocks = 0;
  for (int begin = 0; begin < n; begin += kSumBlock) {
    sums[blocks++] = total;
    const int end = std::min(begin + kSumBlock, n);
    for (int i = begin; i < end; ++i) total += kept(i);
  }
  sums[blocks] = total;
  const double target = uniform * total;
  // The first block at whose end the sum exceeds the target, or the last that adds anything.
  int block = blocks - 1;
  for (int b = 0; b < blocks; ++b) {
    if (sums[b + 1] > target) {
      block = b;
      break;
    }
    if (sums[b + 1] > sums[b]) block = b;
  }
  double running = sums[block];
  int chosen = -1;
  for (int i = block * kSumBlock; i < std::min((block + 1) * kSumBlock, n); ++i) {
    const float value = kept(i);
    if (value > 0) chosen = i;
    running += value;
    if (running > target && chosen >= 0) break;
  }
  return chosen;
}

}  // namespace packrat
