#include "kernels/attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/rope.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/attend-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

// Finds the key and value rows of one key head at a position.
struct PagedEntry {
  SpanPages pages;
  size_t key, value;  // Offsets of this head within a page, floats.
  int padded;

  void operator()(int position, const float** k, const float** v) const {
    const float* page = pages.Page(position / kBlockTokens);
    const size_t row = static_cast<size_t>(position % kBlockTokens) * padded;
    *k = page + key + row;
    *v = page + value + row;
  }
  void Prefetch(int) const {}  // Rows follow each other: the hardware sees that by itself.
};

const float* HeadRow(const void* rows, const AttentionOperands& x, int token, int head, int dim) {
  return static_cast<const float*>(rows) + static_cast<ptrdiff_t>(token) * x.stride + head * dim;
}

// One head of a token, its first channels rotated, to `out`; zero up to the padding.
void RotateHead(const AttentionShape& shape, const AttentionOperands& x, const void* rows,
                int token, int head, float* out) {
  const int dim = shape.head_dim, rotary = shape.rotary_dim;
  const float* row = HeadRow(rows, x, token, head, dim);
  Rotate(row, x.rope + static_cast<ptrdiff_t>(token) * rotary, rotary, out);
  // Not std::copy(): a call for nothing cost 2 % of a prompt where all channels are rotated.
  for (int i = rotary; i < dim; ++i) out[i] = row[i];
  std::fill(out + dim, out + PadTo16(dim), 0.0f);
}

// Rotates and appends the keys and values of tokens [t, t + n), all in one page.
void AppendKeys(const AttentionShape& shape, const BatchSpan& span, const AttentionOperands& x,
                const PagedEntry& entry, int kv_head, int t, int n) {
  const int dim = shape.head_dim, padded = PadTo16(dim);
  for (int i = t; i < t + n; ++i) {
    const int token = span.first_token + i;
    const float *k, *v;
    entry(span.position + i, &k, &v);
    auto *key = const_cast<float*>(k), *value = const_cast<float*>(v);
    RotateHead(shape, x, x.k, token, kv_head, key);
    std::copy_n(HeadRow(x.v, x, token, kv_head, dim), dim, value);
    std::fill(value + dim, value + padded, 0.0f);
  }
}

// All tokens of a span for one key head and the query heads that share it. Page by page: a
// window's ring may hold less than a long prompt piece.
void AttendSpan(const AttentionShape& shape, const BatchSpan& span, const StatePages& state,
                int span_index, const AttentionOperands& x, int kv_head, float* scratch) {
  const int dim = shape.head_dim, padded = PadTo16(dim);
  const int shared = shape.num_heads / shape.num_kv_heads;
  const size_t head_floats = static_cast<size_t>(kBlockTokens) * padded;
  const PagedEntry entry{SpanPages(state, span_index), kv_head * head_floats,
                         (shape.num_kv_heads + kv_head) * head_floats, padded};
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  float* q_rows = scratch + 16 * kTile;
  float* q_columns = q_rows + 16 * padded;
  float* out_columns = q_columns + 16 * padded;
  for (int t = 0, n; t < span.num_tokens; t += n) {
    const int position = span.position + t;
    n = std::min(kBlockTokens - position % kBlockTokens, span.num_tokens - t);
    AppendKeys(shape, span, x, entry, kv_head, t, n);
    Range ranges[16];
    for (int i = 0; i < n; ++i) {
      const int end = position + i + 1;
      ranges[i] = {shape.window > 0 ? std::max(0, end - shape.window) : 0, end};
    }
    for (int head = kv_head * shared; head < (kv_head + 1) * shared; ++head) {
      for (int i = 0; i < n; ++i) {
        RotateHead(shape, x, x.q, span.first_token + t + i, head, q_rows + i * padded);
      }
      const ptrdiff_t out_stride = static_cast<ptrdiff_t>(shape.num_heads) * dim;
      float* out = static_cast<float*>(x.out) + (span.first_token + t) * out_stride + head * dim;
      if (n == 1) {
        AttendOne(q_rows, padded, ranges[0], scale, entry, out_columns);
        std::copy_n(out_columns, dim, out);
      } else {
        RowsToColumns(q_rows, padded, n, padded, q_columns);
        AttendTile(q_columns, padded, n, ranges, scale, entry, OwnEntry(), scratch, out_columns);
        ColumnsToRows(out_columns, n, dim, out, out_stride);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace packrat {

HWY_EXPORT(AttendSpan);

absl::Status Attention(const AttentionShape& shape, const BatchView& batch, const StatePages& pages,
                       const AttentionOperands& operands, KernelContext* context) {
  PACKRAT_CHECK(operands.type == DType::kF32);
  const auto tasks = static_cast<int64_t>(batch.num_spans) * shape.num_kv_heads;
  context->pool.Run(tasks, [&](int64_t task, int worker) {
    const auto span = static_cast<int>(task / shape.num_kv_heads);
    if (batch.spans[span].num_tokens == 0) return;
    HWY_DYNAMIC_DISPATCH(AttendSpan)
    (shape, batch.spans[span], pages, span, operands, static_cast<int>(task % shape.num_kv_heads),
     context->scratch(worker));
  });
  return absl::OkStatus();
}

}  // namespace packrat
#endif  // HWY_ONCE
