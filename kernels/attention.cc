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
  // A head's rows of a page are some KiB, too short for the hardware to see by itself what comes
  // next. Inlined, or gcc takes it for a call that does nothing.
  HWY_INLINE void Prefetch(int position) const {
    const float *k, *v;
    (*this)(position, &k, &v);
    for (int d = 0; d < padded; d += 16) {
      __builtin_prefetch(k + d);
      __builtin_prefetch(v + d);
    }
  }
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
  // Not std::copy(): where all channels are rotated, its calls for nothing cost 2 % of a prompt.
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

// One key head of a span, and the query heads that share it.
class HeadOfSpan {
 public:
  HeadOfSpan(const AttentionShape& shape, const BatchSpan& span, const StatePages& state,
             int span_index, const AttentionOperands& x, int kv_head)
      : shape_(shape),
        span_(span),
        x_(x),
        kv_head_(kv_head),
        padded_(PadTo16(shape.head_dim)),
        entry_{SpanPages(state, span_index), static_cast<size_t>(kv_head) * kBlockTokens * padded_,
               static_cast<size_t>(shape.num_kv_heads + kv_head) * kBlockTokens * padded_,
               padded_} {}

  // Tokens [t, t + n) of the span, all in one page. Their keys and those before must be appended.
  void Attend(int t, int n, float* scratch) const {
    if (n == 1) return AttendToken(t, scratch);
    const int shared = shape_.num_heads / shape_.num_kv_heads;
    float* q_rows = scratch + 16 * kTile;
    float* q_columns = q_rows + 16 * padded_;
    float* out_columns = q_columns + 16 * padded_;
    Range ranges[16];
    for (int i = 0; i < n; ++i) ranges[i] = Visible(t + i);
    for (int head = kv_head_ * shared; head < (kv_head_ + 1) * shared; ++head) {
      for (int i = 0; i < n; ++i) {
        RotateHead(shape_, x_, x_.q, span_.first_token + t + i, head, q_rows + i * padded_);
      }
      RowsToColumns(q_rows, padded_, n, padded_, q_columns);
      AttendTile(q_columns, padded_, n, ranges, Scale(), entry_, OwnEntry(), scratch, out_columns);
      ColumnsToRows(out_columns, n, shape_.head_dim, Out(t, head), OutStride());
    }
  }

  void Append(int t, int n) const { AppendKeys(shape_, span_, x_, entry_, kv_head_, t, n); }

 private:
  void AttendToken(int t, float* scratch) const {
    const int shared = shape_.num_heads / shape_.num_kv_heads, end = (kv_head_ + 1) * shared;
    float* q = scratch + kMaxShared * kTile;
    float* out = q + kMaxShared * padded_;
    for (int head = kv_head_ * shared, n; head < end; head += n) {
      n = std::min(kMaxShared, end - head);
      for (int h = 0; h < n; ++h) {
        RotateHead(shape_, x_, x_.q, span_.first_token + t, head + h, q + h * padded_);
      }
      AttendOne(q, n, padded_, Visible(t), Scale(), entry_, scratch, out);
      for (int h = 0; h < n; ++h) {
        std::copy_n(out + h * padded_, shape_.head_dim, Out(t, head + h));
      }
    }
  }

  Range Visible(int t) const {
    const int end = span_.position + t + 1;
    return {shape_.window > 0 ? std::max(0, end - shape_.window) : 0, end};
  }
  float Scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  ptrdiff_t OutStride() const { return static_cast<ptrdiff_t>(shape_.num_heads) * shape_.head_dim; }
  float* Out(int t, int head) const {
    return static_cast<float*>(x_.out) + (span_.first_token + t) * OutStride() +
           head * shape_.head_dim;
  }

  const AttentionShape& shape_;
  const BatchSpan& span_;
  const AttentionOperands& x_;
  const int kv_head_, padded_;
  const PagedEntry entry_;
};

void AppendBlock(const AttentionShape& shape, const BatchSpan& span, const StatePages& state,
                 int span_index, const AttentionOperands& x, int kv_head, int t, int n) {
  HeadOfSpan(shape, span, state, span_index, x, kv_head).Append(t, n);
}

void AttendBlock(const AttentionShape& shape, const BatchSpan& span, const StatePages& state,
                 int span_index, const AttentionOperands& x, int kv_head, int t, int n, bool append,
                 float* scratch) {
  const HeadOfSpan head(shape, span, state, span_index, x, kv_head);
  if (append) head.Append(t, n);
  head.Attend(t, n, scratch);
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace packrat {

HWY_EXPORT(AppendBlock);
HWY_EXPORT(AttendBlock);

namespace {

// Tokens of a span that begin at `t` and lie in one page.
int BlockTokens(const BatchSpan& span, int t) {
  return std::min(kBlockTokens - (span.position + t) % kBlockTokens, span.num_tokens - t);
}

// Whether all keys of the span can be appended before any is read, so that its blocks are
// independent: not where they would come round the ring of a window to pages that are still seen.
bool AppendsAhead(const AttentionShape& shape, const BatchSpan& span, const PageTable& table) {
  if (BlockTokens(span, 0) == span.num_tokens) return false;  // One block needs no other.
  const int first = shape.window > 0 ? std::max(0, span.position + 1 - shape.window) : 0;
  const int last = span.position + span.num_tokens - 1;
  return last / kBlockTokens - first / kBlockTokens < table.ring;
}

}  // namespace

// A task is a key head of the blocks that begin in some consecutive rows of the batch; of a span
// that cannot append ahead, of all its blocks, where the first begins.
absl::Status Attention(const AttentionShape& shape, const BatchView& batch, const StatePages& pages,
                       const AttentionOperands& operands, KernelContext* context) {
  PACKRAT_CHECK(operands.type == DType::kF32);
  const int heads = shape.num_kv_heads, threads = context->pool.size();
  // Eight tasks to a thread, so that none waits long for another's last.
  const int rows = std::clamp(batch.num_tokens * heads / (8 * threads), 1, kBlockTokens);
  const int64_t tasks = int64_t{(batch.num_tokens + rows - 1) / rows} * heads;
  const auto for_blocks = [&](int64_t task, const auto& block) {
    const int begin = static_cast<int>(task / heads) * rows, end = begin + rows;
    for (int s = 0; s < batch.num_spans; ++s) {
      const BatchSpan& span = batch.spans[s];
      if (span.first_token >= end || span.first_token + span.num_tokens <= begin) continue;
      const bool ahead = AppendsAhead(shape, span, pages.tables[s]);
      if (!ahead && span.first_token < begin) continue;
      for (int t = 0, n; t < span.num_tokens; t += n) {
        n = BlockTokens(span, t);
        if (ahead && span.first_token + t >= end) break;
        if (!ahead || span.first_token + t >= begin) block(s, t, n, ahead);
      }
    }
  };
  if (batch.max_span_tokens > 1) {
    context->pool.Run(tasks, [&](int64_t task, int) {
      for_blocks(task, [&](int s, int t, int n, bool ahead) {
        if (!ahead) return;
        HWY_DYNAMIC_DISPATCH(AppendBlock)
        (shape, batch.spans[s], pages, s, operands, static_cast<int>(task % heads), t, n);
      });
    });
  }
  context->pool.Run(tasks, [&](int64_t task, int worker) {
    for_blocks(task, [&](int s, int t, int n, bool ahead) {
      HWY_DYNAMIC_DISPATCH(AttendBlock)
      (shape, batch.spans[s], pages, s, operands, static_cast<int>(task % heads), t, n, !ahead,
       context->scratch(worker));
    });
  });
  return absl::OkStatus();
}

}  // namespace packrat
#endif  // HWY_ONCE
