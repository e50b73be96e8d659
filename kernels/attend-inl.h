// Softmax attention of one head over entries (keys and values in rows), shared by RAT, window and
// full attention. Two forms with the same bits: AttendOne() for one query, with channels in the
// lanes, and AttendTile() for up to sixteen queries, one in each lane. Each is made of a start, of
// ranges of entries that are added one after the other, and of an end.
//
// What fixes the bits: a score is a Dot(); entries are taken in tiles of 256 at absolute indices;
// within a tile sums run over sixteen lanes by index modulo 16; values are added in order of index.
// Entries that a query does not see weigh exactly zero.
//
// Included once per target through hwy/foreach_target.h.
#if defined(PACKRAT_KERNELS_ATTEND_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PACKRAT_KERNELS_ATTEND_INL_H_
#undef PACKRAT_KERNELS_ATTEND_INL_H_
#else
#define PACKRAT_KERNELS_ATTEND_INL_H_
#endif

#include <limits>

#include "kernels/attention.h"
#include "kernels/vec16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

constexpr int kTile = kAttendTile;  // Entries.
// Finite, so that the difference of two of them is zero and not NaN: the running maximum before the
// first visible entry.
constexpr float kNoMaximum = -1e30f;
constexpr float kHidden = -std::numeric_limits<float>::infinity();

constexpr int kAhead = 32;  // Entries between the one in work and the one that is prefetched.

// The pages of one span.
struct SpanPages {
  std::byte* base;
  size_t page_bytes;
  PageTable table;
  SpanPages(const StatePages& pages, int span)
      : base(pages.base), page_bytes(pages.page_bytes), table(pages.tables[span]) {}
  float* Page(int b) const {
    return reinterpret_cast<float*>(base +
                                    static_cast<size_t>(table.pages[b % table.ring]) * page_bytes);
  }
};

// One query's or one lane's visible entries: [first, end).
struct Range {
  int first, end;
};

constexpr int kMaxShared = 16;  // Queries of one AttendOne().

// Dot() of one query with sixteen rows.
HWY_INLINE V16 DotRows(const float* q, const float* const* rows, int n) {
  return SumRows([&](const int* four, V16* sums) HWY_ATTR {
#pragma GCC unroll 16
    for (int r = 0; r < 4; ++r) sums[r] = Zero();
    for (int i = 0; i < n; i += 16) {
      const V16 x = Load(q + i);
#pragma GCC unroll 16
      for (int r = 0; r < 4; ++r) sums[r] = MulAdd(x, Load(rows[four[r]] + i), sums[r]);
    }
  });
}

// out (padded) += weights[j] * rows[j] for j in [first, last), one after the other.
HWY_INLINE void AddWeighted(const float* weights, const float* const* rows, int first, int last,
                            int padded, float* out) {
  constexpr int kGroup = HWY_TARGET == HWY_SSE4 ? 2 : 4;  // Accumulators that fit in registers.
  int d = 0;
  for (; d + 16 * kGroup <= padded; d += 16 * kGroup) {
    V16 acc[kGroup];
#pragma GCC unroll 16
    for (int g = 0; g < kGroup; ++g) acc[g] = Load(out + d + g * 16);
    for (int j = first; j < last; ++j) {
      const V16 p = Set(weights[j]);
#pragma GCC unroll 16
      for (int g = 0; g < kGroup; ++g) acc[g] = MulAdd(p, Load(rows[j] + d + g * 16), acc[g]);
    }
#pragma GCC unroll 16
    for (int g = 0; g < kGroup; ++g) Store(acc[g], out + d + g * 16);
  }
  for (; d < padded; d += 16) {
    V16 acc = Load(out + d);
    for (int j = first; j < last; ++j) acc = MulAdd(Set(weights[j]), Load(rows[j] + d), acc);
    Store(acc, out + d);
  }
}

// The running softmax of up to kMaxShared queries: the largest score so far, and the sum of weights
// relative to it.
struct OneSums {
  HWY_ALIGN float maximum[kMaxShared], total[kMaxShared];
};

HWY_INLINE void StartOne(int heads, int padded, OneSums* sums, float* HWY_RESTRICT out) {
  for (int h = 0; h < heads; ++h) sums->maximum[h] = kNoMaximum, sums->total[h] = 0.0f;
  for (int d = 0; d < heads * padded; d += 16) Store(Zero(), out + d);
}

// Adds the entries [range.first, range.end), maybe none, to the softmax of queries q (heads,
// padded), which share them. entry(j, &key, &value) gives row pointers of (padded) floats, padded a
// multiple of 16; entry.Prefetch(j) asks for the rows of an entry that will be read soon. scratch:
// heads * kTile floats.
//
// Sixteen entries at a time, so that all heads find them in the first cache.
template <class Entry>
HWY_INLINE void AddOne(const float* q, int heads, int padded, Range range, float scale,
                       const Entry& entry, OneSums* sums, float* HWY_RESTRICT scratch,
                       float* HWY_RESTRICT out) {
  float *maximum = sums->maximum, *total = sums->total;
  const float* values[kTile];
  for (int tile = range.first / kTile * kTile; tile < range.end; tile += kTile) {
    const int begin = (range.first > tile ? range.first : tile) - tile;
    const int end = range.end - tile < kTile ? range.end - tile : kTile;
    const int begin16 = begin / 16 * 16, end16 = (end + 15) / 16 * 16;
    for (int block = begin16; block < end16; block += 16) {
      // Of an entry that is not seen, the nearest that is.
      const float* keys[16];
      for (int j = 0; j < 16; ++j) {
        const int seen = block + j < begin ? begin : block + j < end ? block + j : end - 1;
        if (tile + block + j + kAhead < range.end) entry.Prefetch(tile + block + j + kAhead);
        entry(tile + seen, &keys[j], &values[block + j]);
      }
      for (int h = 0; h < heads; ++h) {
        Store(Mul(DotRows(q + h * padded, keys, padded), Set(scale)), scratch + h * kTile + block);
      }
    }
    for (int h = 0; h < heads; ++h) {
      float* weights = scratch + h * kTile;
      for (int j = begin16; j < begin; ++j) weights[j] = kHidden;
      for (int j = end; j < end16; ++j) weights[j] = kHidden;
      V16 best = Set(maximum[h]);
      for (int j = begin16; j < end16; j += 16) best = Max(best, Load(weights + j));
      const float new_maximum = MaxLanes(best);
      V16 sum = Zero();
      for (int j = begin16; j < end16; j += 16) {
        const V16 p = Exp(Sub(Load(weights + j), Set(new_maximum)));
        Store(p, weights + j);
        sum = Add(sum, p);
      }
      const V16 shrink = Exp(Sub(Set(maximum[h]), Set(new_maximum)));
      HWY_ALIGN float factor[16];
      Store(shrink, factor);
      total[h] = total[h] * factor[0] + SumLanes(sum);
      maximum[h] = new_maximum;
      for (int d = h * padded; d < (h + 1) * padded; d += 16) {
        Store(Mul(Load(out + d), shrink), out + d);
      }
    }
    for (int block = begin16; block < end16; block += 16) {
      const int first = block < begin ? begin : block, last = end < block + 16 ? end : block + 16;
      for (int h = 0; h < heads; ++h) {
        AddWeighted(scratch + h * kTile, values, first, last, padded, out + h * padded);
      }
    }
  }
}

HWY_INLINE void FinishOne(int heads, int padded, const OneSums& sums, float* HWY_RESTRICT out) {
  for (int h = 0; h < heads; ++h) {
    for (int d = h * padded; d < (h + 1) * padded; d += 16) {
      Store(Div(Load(out + d), Set(sums.total[h])), out + d);
    }
  }
}

// out (heads, padded) = softmax(scale * q . keys) . values over [range.first, range.end), not
// empty.
template <class Entry>
HWY_INLINE void AttendOne(const float* q, int heads, int padded, Range range, float scale,
                          const Entry& entry, float* HWY_RESTRICT scratch,
                          float* HWY_RESTRICT out) {
  OneSums sums;
  StartOne(heads, padded, &sums, out);
  AddOne(q, heads, padded, range, scale, entry, &sums, scratch, out);
  FinishOne(heads, padded, sums, out);
}

// A query's own entry, which differs from lane to lane (RAT's running chunk); index `index` is the
// last of every lane's range.
struct OwnEntry {
  int index = -1;                 // -1: there is none.
  const float* scores = nullptr;  // (16), not yet scaled
  const float* values = nullptr;  // (padded, 16)
};

// Keys that DotLanes() takes at once, so that what it loads of the queries serves several.
constexpr int kKeys = HWY_TARGET == HWY_AVX3 ? 4 : 1;

// scores[i] = Dot(q_lane, keys[i]) for sixteen queries in columns (padded, 16).
HWY_INLINE void DotLanes(const float* q, const float* const* keys, int padded, V16* scores) {
  V16 quarter[4][kKeys];
#pragma GCC unroll 16
  for (int l = 0; l < 4; ++l) {
    V16 acc[4][kKeys];
#pragma GCC unroll 16
    for (int c = 0; c < 4; ++c) {
#pragma GCC unroll 16
      for (int i = 0; i < kKeys; ++i) acc[c][i] = Zero();
    }
    for (int d = l; d < padded; d += 16) {
#pragma GCC unroll 16
      for (int c = 0; c < 4; ++c) {
        const V16 x = Load(q + (d + 4 * c) * 16);
#pragma GCC unroll 16
        for (int i = 0; i < kKeys; ++i) acc[c][i] = MulAdd(x, Set(keys[i][d + 4 * c]), acc[c][i]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kKeys; ++i) {
      quarter[l][i] = Add(Add(acc[0][i], acc[2][i]), Add(acc[1][i], acc[3][i]));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kKeys; ++i) {
    scores[i] = Add(Add(quarter[0][i], quarter[2][i]), Add(quarter[1][i], quarter[3][i]));
  }
}

// As OneSums, of a query in each lane.
struct TileSums {
  V16 maximum, total;
};

HWY_INLINE void StartTile(int padded, TileSums* sums, float* HWY_RESTRICT out) {
  *sums = {Set(kNoMaximum), Zero()};
  for (int d = 0; d < padded; ++d) Store(Zero(), out + d * 16);
}

// q, out: (padded, 16), lane t is query t of `n`; ranges[t] as in AddOne(). scratch: kTile * 16
// floats.
template <class Entry>
HWY_INLINE void AddTile(const float* q, int padded, int n, const Range* ranges, float scale,
                        const Entry& entry, const OwnEntry& own, TileSums* sums,
                        float* HWY_RESTRICT scratch, float* HWY_RESTRICT out) {
  Range all = ranges[0], common = ranges[0];  // Entries that some queries see, that all see.
  for (int t = 0; t < n; ++t) {
    const Range range = ranges[t];
    all.first = range.first < all.first ? range.first : all.first;
    all.end = range.end > all.end ? range.end : all.end;
    common.first = range.first > common.first ? range.first : common.first;
    common.end = range.end < common.end ? range.end : common.end;
  }
  // Relative to the bounds of `common`, which are close to those of every query of the tile: a
  // float holds whole numbers up to 2^24 only.
  HWY_ALIGN float first[16], end_of[16];
  for (int t = 0; t < 16; ++t) {
    const Range range = ranges[t < n ? t : 0];
    first[t] = static_cast<float>(range.first - common.first);
    end_of[t] = static_cast<float>(range.end - common.end);
  }
  const float* values[kTile];
  V16 maximum = sums->maximum, total = sums->total;
  for (int tile = all.first / kTile * kTile; tile < all.end; tile += kTile) {
    const int begin = (all.first > tile ? all.first : tile) - tile;
    const int end = all.end - tile < kTile ? all.end - tile : kTile;
    V16 new_maximum = maximum;
    for (int j = begin; j < end; j += kKeys) {
      const int count = end - j < kKeys ? end - j : kKeys;
      const float* keys[kKeys];
#pragma GCC unroll 16
      for (int i = 0; i < kKeys; ++i) {
        keys[i] = i < count ? q : keys[0];  // q: anything, for an own entry, or none.
        const int index = tile + j + i;
        if (i < count && index != own.index) entry(index, &keys[i], &values[j + i]);
      }
      V16 scores[kKeys];
      DotLanes(q, keys, padded, scores);
      for (int i = 0; i < count; ++i) {
        const int index = tile + j + i;
        const bool is_own = own.scores != nullptr && index == own.index;
        V16 score = Mul(is_own ? Load(own.scores) : scores[i], Set(scale));
        if (index < common.first || index >= common.end) {
          const V16 hidden = Set(kHidden), at_first = Set(static_cast<float>(index - common.first)),
                    at_end = Set(static_cast<float>(index - common.end));
          score = IfGreater(Load(first), at_first, hidden, score);
          score = IfGreater(Load(end_of), at_end, score, hidden);
        }
        Store(score, scratch + (j + i) * 16);
        new_maximum = Max(new_maximum, score);
      }
    }
    V16 lanes[16];
    for (int l = 0; l < 16; ++l) lanes[l] = Zero();
    for (int j = begin; j < end; ++j) {
      const V16 p = Exp(Sub(Load(scratch + j * 16), new_maximum));
      Store(p, scratch + j * 16);
      lanes[j % 16] = Add(lanes[j % 16], p);
    }
    const V16 shrink = Exp(Sub(maximum, new_maximum));
    total = Add(Mul(total, shrink), TreeSum([&](int l) HWY_ATTR { return lanes[l]; }));
    maximum = new_maximum;
    constexpr int kGroup = HWY_TARGET == HWY_AVX3 ? 16 : HWY_TARGET == HWY_AVX2 ? 4 : 2;
    const bool with_own = own.values != nullptr && own.index >= tile && own.index < tile + kTile;
    const int shared_end = with_own ? own.index - tile : end;
    for (int d = 0; d < padded; d += kGroup) {
      V16 acc[kGroup];
#pragma GCC unroll 16
      for (int g = 0; g < kGroup; ++g) acc[g] = Mul(Load(out + (d + g) * 16), shrink);
      for (int j = begin; j < shared_end; ++j) {
        const V16 p = Load(scratch + j * 16);
#pragma GCC unroll 16
        for (int g = 0; g < kGroup; ++g) acc[g] = MulAdd(p, Set(values[j][d + g]), acc[g]);
      }
#pragma GCC unroll 16
      for (int g = 0; g < kGroup; ++g) {
        if (with_own) {
          const V16 p = Load(scratch + shared_end * 16);
          acc[g] = MulAdd(p, Load(own.values + (d + g) * 16), acc[g]);
        }
        Store(acc[g], out + (d + g) * 16);
      }
    }
  }
  *sums = {maximum, total};
}

HWY_INLINE void FinishTile(int padded, const TileSums& sums, float* HWY_RESTRICT out) {
  for (int d = 0; d < padded; ++d) Store(Div(Load(out + d * 16), sums.total), out + d * 16);
}

// As AttendOne(), for every lane.
template <class Entry>
HWY_INLINE void AttendTile(const float* q, int padded, int n, const Range* ranges, float scale,
                           const Entry& entry, const OwnEntry& own, float* HWY_RESTRICT scratch,
                           float* HWY_RESTRICT out) {
  TileSums sums;
  StartTile(padded, &sums, out);
  AddTile(q, padded, n, ranges, scale, entry, own, &sums, scratch, out);
  FinishTile(padded, sums, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#endif  // PACKRAT_KERNELS_ATTEND_INL_H_
