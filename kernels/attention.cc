#include "kernels/attention.h"

#include <algorithm>
#include <cmath>

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
  const PagedState& state;
  size_t key, value;  // Offsets of this head within a page, floats.
  int padded;

  void operator()(int position, const float** k, const float** v) const {
    const float* page = state.Page(position / kPageTokens);
    const size_t row = static_cast<size_t>(position % kPageTokens) * padded;
    *k = page + key + row;
    *v = page + value + row;
  }
  void Prefetch(int) const {}  // Rows follow each other: the hardware sees that by itself.
};

// Rotates and appends the keys and values of tokens [t, t + n), all in one page.
void AppendKeys(const AttentionShape& shape, const AttentionSequence& sequence,
                const AttentionOperands& x, const RopeTable& rope, const PagedEntry& entry,
                int kv_head, int t, int n) {
  const int dim = shape.head_dim, padded = PadTo16(dim);
  for (int i = t; i < t + n; ++i) {
    const int token = sequence.rows.first_token + i;
    const float *k, *v;
    entry(sequence.rows.position + i, &k, &v);
    auto *key = const_cast<float*>(k), *value = const_cast<float*>(v);
    Rotate(x.k + token * x.k_stride + kv_head * dim, rope.row(token), dim, key);
    std::copy_n(x.v + token * x.v_stride + kv_head * dim, dim, value);
    std::fill(key + dim, key + padded, 0.0f);
    std::fill(value + dim, value + padded, 0.0f);
  }
}

// All tokens of a sequence for one key head and the query heads that share it. Page by page: a
// window's ring may hold less than a long prompt piece.
void AttendSequence(const AttentionShape& shape, const AttentionSequence& sequence,
                    const AttentionOperands& x, const RopeTable& rope, int kv_head,
                    float* scratch) {
  const int dim = shape.head_dim, padded = PadTo16(dim);
  const int shared = shape.num_heads / shape.num_kv_heads;
  const size_t head_floats = static_cast<size_t>(kPageTokens) * padded;
  const PagedEntry entry{sequence.state, kv_head * head_floats,
                         (shape.num_kv_heads + kv_head) * head_floats, padded};
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const Rows& rows = sequence.rows;
  float* q_rows = scratch + 16 * kTile;
  float* q_columns = q_rows + 16 * padded;
  float* out_columns = q_columns + 16 * padded;
  for (int t = 0, n; t < rows.num_tokens; t += n) {
    const int position = rows.position + t;
    n = std::min(kPageTokens - position % kPageTokens, rows.num_tokens - t);
    AppendKeys(shape, sequence, x, rope, entry, kv_head, t, n);
    Range ranges[16];
    for (int i = 0; i < n; ++i) {
      const int end = position + i + 1;
      ranges[i] = {shape.window > 0 ? std::max(0, end - shape.window) : 0, end};
    }
    for (int head = kv_head * shared; head < (kv_head + 1) * shared; ++head) {
      for (int i = 0; i < n; ++i) {
        const int token = rows.first_token + t + i;
        float* q = q_rows + i * padded;
        Rotate(x.q + token * x.q_stride + head * dim, rope.row(token), dim, q);
        std::fill(q + dim, q + padded, 0.0f);
      }
      const ptrdiff_t out_stride = static_cast<ptrdiff_t>(shape.num_heads) * dim;
      float* out = x.out + (rows.first_token + t) * out_stride + head * dim;
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

HWY_EXPORT(AttendSequence);

void Attention(const AttentionShape& shape, absl::Span<const AttentionSequence> sequences,
               const AttentionOperands& operands, const RopeTable& rope, KernelContext* context) {
  const auto tasks = static_cast<int64_t>(sequences.size()) * shape.num_kv_heads;
  context->pool.Run(tasks, [&](int64_t task, int worker) {
    HWY_DYNAMIC_DISPATCH(AttendSequence)
    (shape, sequences[task / shape.num_kv_heads], operands, rope,
     static_cast<int>(task % shape.num_kv_heads), context->scratch(worker));
  });
}

}  // namespace packrat
#endif  // HWY_ONCE
