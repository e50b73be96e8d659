#include "kernels/rat_plus.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/rope.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rat_plus.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/attend-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

// Channels [first, first + n) of a span; n at most kAverageChannels.
void AverageSpan(const RatPlusShape& shape, const BatchSpan& span, float* tail,
                 const RatPlusOperands& x, int first, int n) {
  float* key = tail + first;
  float* value = tail + PadTo16(shape.width()) + first;
  const V16 one = Set(1.0f);
  for (int t = 0; t < span.num_tokens; ++t) {
    const ptrdiff_t row = static_cast<ptrdiff_t>(span.first_token + t) * x.stride + first;
    const float* gates = static_cast<const float*>(x.gate) + row;
    float* k = static_cast<float*>(x.k) + row;
    float* v = static_cast<float*>(x.v) + row;
    const bool begins = span.position + t == 0;
    for (int d = 0; d < n; d += 16) {
      const int left = n - d;
      const V16 gate = Sigmoid(LoadFirst(gates + d, left)), rest = Sub(one, gate);
      V16 k_new = Mul(rest, LoadFirst(k + d, left)), v_new = Mul(rest, LoadFirst(v + d, left));
      if (!begins) {
        k_new = MulAdd(gate, LoadFirst(key + d, left), k_new);
        v_new = MulAdd(gate, LoadFirst(value + d, left), v_new);
      }
      StoreFirst(k_new, left, key + d);
      StoreFirst(v_new, left, value + d);
      StoreFirst(k_new, left, k + d);
      StoreFirst(v_new, left, v + d);
    }
  }
}

// One head's entries, of all that a span keeps.
struct RatPlusEntries {
  RatPlusShape shape;
  SpanPages pages;
  float* tail_entries;
  int key, value;  // Offset of the head's key within an entry, and from there to its value; floats.
  int padded;
  size_t entry_floats;

  float* Sink(int s) const { return tail_entries + static_cast<size_t>(s) * entry_floats + key; }
  float* Ring(int s) const { return Sink(shape.sinks + s % shape.window); }
  float* Page(int page) const { return pages.Page(page) + key; }
  // From row to row, key and value.
  HWY_INLINE void Copy(const float* k, const float* v, float* to) const {
    std::copy_n(k, padded, to);
    std::copy_n(v, padded, to + value);
  }
};

// What has left the window, in the order of RatPlusShape::Kept().
struct FarEntry {
  const RatPlusEntries& all;

  void operator()(int e, const float** k, const float** v) const {
    *k = e < all.shape.sinks ? all.Sink(e) : all.Page(e - all.shape.sinks);
    *v = *k + all.value;
  }
  // As RatEntry's in rat.cc: each entry lies in a page of its own.
  HWY_INLINE void Prefetch(int e) const {
    if (e < all.shape.sinks) return;
    const float* row = all.Page(e - all.shape.sinks);
    for (int d = 0; d < all.padded; d += 16) {
      __builtin_prefetch(row + d, 0, 2);
      __builtin_prefetch(row + all.value + d, 0, 2);
    }
  }
};

// The window by position; from `begin` on, the rows of the tile at work.
struct NearEntry {
  const RatPlusEntries& all;
  int begin;
  const float *keys, *values;  // (16, padded)

  void operator()(int s, const float** k, const float** v) const {
    if (s >= begin) {
      *k = keys + (s - begin) * all.padded;
      *v = values + (s - begin) * all.padded;
      return;
    }
    *k = s < all.shape.sinks ? all.Sink(s) : all.Ring(s);
    *v = *k + all.value;
  }
  void Prefetch(int) const {}
};

// All tokens of a span for one head, in tiles of up to sixteen.
void AttendSpanHead(const RatPlusShape& shape, const BatchSpan& span, const StatePages& state,
                    int span_index, float* tail, const AttentionOperands& x, int head,
                    float* scratch) {
  const int dim = shape.head_dim, padded = PadTo16(dim), window = shape.window;
  const PageTable no_table;
  const StatePages no_pages{nullptr, 0, &no_table};
  const RatPlusEntries entries{
      shape,
      shape.dilation > 0 ? SpanPages(state, span_index) : SpanPages(no_pages, 0),
      tail + RatTailFloats(shape.num_heads, dim),
      head * padded,
      shape.num_heads * padded,
      padded,
      RatPageFloats(shape.num_heads, dim)};
  const FarEntry far{entries};
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const ptrdiff_t width = shape.width();

  float* q = scratch + 16 * kTile;  // Rows of the tile's tokens (16, padded)...
  float* keys = q + 16 * padded;
  float* values = keys + 16 * padded;
  float* q_columns = values + 16 * padded;  // ...and columns (padded, 16).
  float* value_columns = q_columns + 16 * padded;
  float* out_columns = value_columns + 16 * padded;
  float* own_scores = out_columns + 16 * padded;
  std::fill(q, q + 48 * padded, 0.0f);  // The padding of the rows.

  for (int t = 0, n; t < span.num_tokens; t += n) {
    const int position = span.position + t;
    n = std::min(16, span.num_tokens - t);
    for (int i = 0; i < n; ++i) {
      const ptrdiff_t token = span.first_token + t + i;
      const float* cos_sin = x.rope + token * dim;
      const auto in = [&](const void* rows) {
        return static_cast<const float*>(rows) + token * x.stride + head * dim;
      };
      Rotate(in(x.q), cos_sin, dim, q + i * padded);
      Rotate(in(x.k), cos_sin, dim, keys + i * padded);
      std::copy_n(in(x.v), dim, values + i * padded);
    }
    const NearEntry near{entries, position, keys, values};
    // What becomes of a position is said when the token after the last that has it in its window
    // comes: pages are written before the ring loses what goes there.
    for (int s = std::max(0, position - window); s < position + n; ++s) {
      const float *k, *v;
      near(s, &k, &v);
      if (s >= position && s < shape.sinks) entries.Copy(k, v, entries.Sink(s));
      const int page = s < position + n - window ? shape.PageOf(s) : -1;
      if (page >= 0) entries.Copy(k, v, entries.Page(page));
    }
    float* y = static_cast<float*>(x.out) + (span.first_token + t) * width + head * dim;
    if (n == 1) {
      OneSums sums;
      StartOne(1, padded, &sums, out_columns);
      AddOne(q, 1, padded, {0, shape.Far(position)}, scale, far, &sums, scratch, out_columns);
      AddOne(q, 1, padded, {std::max(0, position - window), position + 1}, scale, near, &sums,
             scratch, out_columns);
      FinishOne(1, padded, sums, out_columns);
      std::copy_n(out_columns, dim, y);
    } else {
      Range far_ranges[16], near_ranges[16];
      for (int i = 0; i < n; ++i) {
        far_ranges[i] = {0, shape.Far(position + i)};
        near_ranges[i] = {std::max(0, position + i - window), position + i + 1};
      }
      RowsToColumns(q, padded, n, padded, q_columns);
      TileSums sums;
      StartTile(padded, &sums, out_columns);
      AddTile(q_columns, padded, n, far_ranges, scale, far, OwnEntry(), &sums, scratch,
              out_columns);
      if (window > 0) {
        AddTile(q_columns, padded, n, near_ranges, scale, near, OwnEntry(), &sums, scratch,
                out_columns);
      } else {
        // Each its own alone: one entry, instead of sixteen of which each sees one.
        for (int i = 0; i < 16; ++i) {
          near_ranges[i] = {0, 1};
          own_scores[i] = i < n ? Dot(q + i * padded, keys + i * padded, padded) : 0.0f;
        }
        RowsToColumns(values, padded, n, padded, value_columns);
        AddTile(q_columns, padded, n, near_ranges, scale, near, {0, own_scores, value_columns},
                &sums, scratch, out_columns);
      }
      FinishTile(padded, sums, out_columns);
      ColumnsToRows(out_columns, n, dim, y, width);
    }
    for (int i = std::max(0, n - window); i < n; ++i) {
      if (position + i < shape.sinks) continue;
      entries.Copy(keys + i * padded, values + i * padded, entries.Ring(position + i));
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace packrat {

HWY_EXPORT(AverageSpan);
HWY_EXPORT(AttendSpanHead);

namespace {

float* TailOf(const StateParts& tails, const BatchSpan& span) {
  return reinterpret_cast<float*>(tails.base + span.tail * tails.stride);
}

}  // namespace

absl::Status RatPlusAverage(const RatPlusShape& shape, const BatchView& batch,
                            const StateParts& tails, const RatPlusOperands& operands,
                            KernelContext* context) {
  PACKRAT_CHECK(operands.type == DType::kF32);
  constexpr int kChannels = 64;  // Of a task: whole cache lines.
  const int width = shape.width(), parts = (width + kChannels - 1) / kChannels;
  context->pool.Run(static_cast<int64_t>(batch.num_spans) * parts, [&](int64_t task, int) {
    const BatchSpan& span = batch.spans[task / parts];
    if (span.num_tokens == 0) return;
    const int first = static_cast<int>(task % parts) * kChannels;
    HWY_DYNAMIC_DISPATCH(AverageSpan)
    (shape, span, TailOf(tails, span), operands, first, std::min(kChannels, width - first));
  });
  return absl::OkStatus();
}

absl::Status RatPlusAttention(const RatPlusShape& shape, const BatchView& batch,
                              const StatePages& pages, const StateParts& tails,
                              const AttentionOperands& operands, KernelContext* context) {
  PACKRAT_CHECK(operands.type == DType::kF32);
  const auto tasks = static_cast<int64_t>(batch.num_spans) * shape.num_heads;
  context->pool.Run(tasks, [&](int64_t task, int worker) {
    const auto i = static_cast<int>(task / shape.num_heads);
    const BatchSpan& span = batch.spans[i];
    if (span.num_tokens == 0) return;
    HWY_DYNAMIC_DISPATCH(AttendSpanHead)
    (shape, span, pages, i, TailOf(tails, span), operands, static_cast<int>(task % shape.num_heads),
     context->scratch(worker));
  });
  return absl::OkStatus();
}

}  // namespace packrat
#endif  // HWY_ONCE
