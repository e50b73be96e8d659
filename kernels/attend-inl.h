// Softmax attention of one head over entries (keys and values in rows), shared by RAT, window and
// full attention. Two forms with the same bits: AttendOne() for one query, with channels in the
// lanes, and AttendTile() for up to sixteen queries, one in each lane.
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

constexpr int kAhead = 16;  // Entries between the one in work and the one that is prefetched.

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

// out (padded) = softmax(scale * q . keys) . values over [range.first, range.end), not empty.
// entry(j, &key, &value) gives row pointers of (padded) floats, padded a multiple of 16;
// entry.Prefetch(j) asks for the rows of an entry that will be read soon.
template <class Entry>
HWY_INLINE void AttendOne(const float* q, int padded, Range range, float scale, const Entry& entry,
                          float* HWY_RESTRICT out) {
  HWY_ALIGN float weights[kTile];
  const float* values[kTile];
  float maximum = kNoMaximum, total = 0.0f;
  for (int d = 0; d < padded; d += 16) Store(Zero(), out + d);
  for (int tile = range.first / kTile * kTile; tile < range.end; tile += kTile) {
    const int begin = (range.first > tile ? range.first : tile) - tile;
    const int end = range.end - tile < kTile ? range.end - tile : kTile;
    const int begin16 = begin / 16 * 16, end16 = (end + 15) / 16 * 16;
    for (int j = begin16; j < end16; j += 16) Store(Set(kHidden), weights + j);
    for (int j = begin; j < end; ++j) {
      const float* key;
      if (tile + j + kAhead < range.end) entry.Prefetch(tile + j + kAhead);
      entry(tile + j, &key, &values[j]);
      weights[j] = Dot(q, key, padded) * scale;
    }
    V16 best = Set(maximum);
    for (int j = begin16; j < end16; j += 16) best = Max(best, Load(weights + j));
    const float new_maximum = MaxLanes(best);
    V16 sum = Zero();
    for (int j = begin16; j < end16; j += 16) {
      const V16 p = Exp(Sub(Load(weights + j), Set(new_maximum)));
      Store(p, weights + j);
      sum = Add(sum, p);
    }
    const V16 shrink = Exp(Sub(Set(maximum), Set(new_maximum)));
    HWY_ALIGN float factor[16];
    Store(shrink, factor);
    total = total * factor[0] + SumLanes(sum);
    maximum = new_maximum;
    constexpr int kGroup = HWY_TARGET == HWY_SSE4 ? 2 : 4;  // Accumulators that fit in registers.
    for (int d = 0; d < padded; d += 16 * kGroup) {
      const int group = (padded - d) / 16 < kGroup ? (padded - d) / 16 : kGroup;
      if (group == kGroup) {
        V16 acc[kGroup];
        for (int g = 0; g < kGroup; ++g) acc[g] = Mul(Load(out + d + g * 16), shrink);
        for (int j = begin; j < end; ++j) {
          const V16 p = Set(weights[j]);
          for (int g = 0; g < kGroup; ++g) acc[g] = MulAdd(p, Load(values[j] + d + g * 16), acc[g]);
        }
        for (int g = 0; g < kGroup; ++g) Store(acc[g], out + d + g * 16);
      } else {
        for (int g = 0; g < group; ++g) {
          V16 acc = Mul(Load(out + d + g * 16), shrink);
          for (int j = begin; j < end; ++j) {
            acc = MulAdd(Set(weights[j]), Load(values[j] + d + g * 16), acc);
          }
          Store(acc, out + d + g * 16);
        }
      }
    }
  }
  for (int d = 0; d < padded; d += 16) Store(Div(Load(out + d), Set(total)), out + d);
}

// A query's own entry, which differs from lane to lane (RAT's running chunk); index `index` is the
// last of every lane's range.
struct OwnEntry {
  int index = -1;                 // -1: there is none.
  const float* scores = nullptr;  // (16), not yet scaled
  const float* values = nullptr;  // (padded, 16)
};

// Dot(q_lane, key) for sixteen queries in columns (padded, 16).
HWY_INLINE V16 DotLanes(const float* q, const float* key, int padded) {
  V16 quarter[4];
  for (int l = 0; l < 4; ++l) {
    V16 a = Zero(), b = Zero(), c = Zero(), e = Zero();
    for (int i = l; i < padded; i += 16) {
      a = MulAdd(Load(q + i * 16), Set(key[i]), a);
      b = MulAdd(Load(q + (i + 4) * 16), Set(key[i + 4]), b);
      c = MulAdd(Load(q + (i + 8) * 16), Set(key[i + 8]), c);
      e = MulAdd(Load(q + (i + 12) * 16), Set(key[i + 12]), e);
    }
    quarter[l] = Add(Add(a, c), Add(b, e));
  }
  return Add(Add(quarter[0], quarter[2]), Add(quarter[1], quarter[3]));
}

// q, out: (padded, 16), lane t is query t of `n`; ranges[t] as in AttendOne(). scratch: kTile * 16
// floats.
template <class Entry>
HWY_INLINE void AttendTile(const float* q, int padded, int n, const Range* ranges, float scale,
                           const Entry& entry, const OwnEntry& own, float* HWY_RESTRICT scratch,
                           float* HWY_RESTRICT out) {
  Range all = ranges[0], common = ranges[0];  // Entries that some, that all queries see.
  for (int t = 0; t < n; ++t) {
    const Range range = ranges[t];
    all.first = range.first < all.first ? range.first : all.first;
    all.end = range.end > all.end ? range.end : all.end;
    common.first = range.first > common.first ? range.first : common.first;
    common.end = range.end < common.end ? range.end : common.end;
  }
  // Counted from the bounds of `common`, to which the queries of a tile are near: a float holds
  // positions up to 2^24 only.
  HWY_ALIGN float first[16], end_of[16];
  for (int t = 0; t < 16; ++t) {
    const Range range = ranges[t < n ? t : 0];
    first[t] = static_cast<float>(range.first - common.first);
    end_of[t] = static_cast<float>(range.end - common.end);
  }
  const float* values[kTile];
  V16 maximum = Set(kNoMaximum), total = Zero();
  for (int d = 0; d < padded; ++d) Store(Zero(), out + d * 16);
  for (int tile = all.first / kTile * kTile; tile < all.end; tile += kTile) {
    const int begin = (all.first > tile ? all.first : tile) - tile;
    const int end = all.end - tile < kTile ? all.end - tile : kTile;
    V16 new_maximum = maximum;
    for (int j = begin; j < end; ++j) {
      V16 score;
      if (own.scores != nullptr && tile + j == own.index) {
        score = Load(own.scores);
      } else {
        const float* key;
        entry(tile + j, &key, &values[j]);
        score = DotLanes(q, key, padded);
      }
      score = Mul(score, Set(scale));
      if (tile + j < common.first || tile + j >= common.end) {
        const V16 hidden = Set(kHidden);
        score =
            IfGreater(Load(first), Set(static_cast<float>(tile + j - common.first)), hidden, score);
        score =
            IfGreater(Load(end_of), Set(static_cast<float>(tile + j - common.end)), score, hidden);
      }
      Store(score, scratch + j * 16);
      new_maximum = Max(new_maximum, score);
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
    constexpr int kGroup = HWY_TARGET == HWY_AVX3 ? 8 : HWY_TARGET == HWY_AVX2 ? 4 : 2;
    const bool with_own = own.values != nullptr && own.index >= tile && own.index < tile + kTile;
    const int shared_end = with_own ? own.index - tile : end;
    for (int d = 0; d < padded; d += kGroup) {
      V16 acc[kGroup];
      for (int g = 0; g < kGroup; ++g) acc[g] = Mul(Load(out + (d + g) * 16), shrink);
      for (int j = begin; j < shared_end; ++j) {
        const V16 p = Load(scratch + j * 16);
        for (int g = 0; g < kGroup; ++g) acc[g] = MulAdd(p, Set(values[j][d + g]), acc[g]);
      }
      for (int g = 0; g < kGroup; ++g) {
        if (with_own) {
          const V16 p = Load(scratch + shared_end * 16);
          acc[g] = MulAdd(p, Load(own.values + (d + g) * 16), acc[g]);
        }
        Store(acc[g], out + (d + g) * 16);
      }
    }
  }
  for (int d = 0; d < padded; ++d) Store(Div(Load(out + d * 16), total), out + d * 16);
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#endif  // PACKRAT_KERNELS_ATTEND_INL_H_
