#include "kernels/attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention_kernel.h"
#include "kernels/check.h"

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

  explicit PagedEntry(const AttentionBlock& b)
      : pages(*b.pages, b.span_index),
        key(static_cast<size_t>(b.kv_head) * kBlockTokens * PadTo16(b.shape->head_dim)),
        value(key + static_cast<size_t>(b.shape->num_kv_heads) * kBlockTokens *
                        PadTo16(b.shape->head_dim)),
        padded(PadTo16(b.shape->head_dim)) {}

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

void AppendBlock(const AttentionBlock& b) {
  const PagedEntry entry(b);
  const int dim = b.shape->head_dim;
  for (int i = b.t; i < b.t + b.n; ++i) {
    const float *k, *v;
    entry(b.position(i), &k, &v);
    auto *key = const_cast<float*>(k), *value = const_cast<float*>(v);
    b.Rotate(b.x->k, i, b.kv_head, key);
    std::copy_n(b.In(b.x->v, i, b.kv_head), dim, value);
    std::fill(value + dim, value + entry.padded, 0.0f);
  }
}

Range Visible(const AttentionBlock& b, int i) { return {b.first(i), b.end(i)}; }
float Scale(const AttentionBlock& b) { return 1.0f / ScoreTemperature(*b.shape); }

void AttendToken(const AttentionBlock& b, float* scratch) {
  const PagedEntry entry(b);
  const int padded = entry.padded, end = (b.kv_head + 1) * b.shared();
  float* q = scratch + kMaxShared * kTile;
  float* out = q + kMaxShared * padded;
  for (int head = b.kv_head * b.shared(), n; head < end; head += n) {
    n = std::min(kMaxShared, end - head);
    for (int h = 0; h < n; ++h) b.Rotate(b.x->q, b.t, head + h, q + h * padded);
    AttendOne(q, n, padded, Visible(b, b.t), Scale(b), entry, scratch, out);
    for (int h = 0; h < n; ++h) {
      std::copy_n(out + h * padded, b.shape->head_dim, b.Out(b.t, head + h));
    }
  }
}

void AttendBlock(const AttentionBlock& b, float* scratch) {
  if (b.n == 1) return AttendToken(b, scratch);
  const PagedEntry entry(b);
  const int padded = entry.padded;
  float* q_rows = scratch + 16 * kTile;
  float* q_columns = q_rows + 16 * padded;
  float* out_columns = q_columns + 16 * padded;
  Range ranges[16];
  for (int i = 0; i < b.n; ++i) ranges[i] = Visible(b, b.t + i);
  for (int head = b.kv_head * b.shared(); head < (b.kv_head + 1) * b.shared(); ++head) {
    for (int i = 0; i < b.n; ++i) b.Rotate(b.x->q, b.t + i, head, q_rows + i * padded);
    RowsToColumns(q_rows, padded, b.n, padded, q_columns);
    AttendTile(q_columns, padded, b.n, ranges, Scale(b), entry, OwnEntry(), scratch, out_columns);
    ColumnsToRows(out_columns, b.n, b.shape->head_dim, b.Out(b.t, head), b.out_stride());
  }
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
void RunAttention(const AttentionKernel& kernel, const AttentionShape& shape,
                  const BatchView& batch, const StatePages& pages,
                  const AttentionOperands& operands, KernelContext* context) {
  PACKRAT_CHECK(operands.type == DType::kF32);
  const int heads = shape.num_kv_heads, threads = context->pool.size();
  // Eight tasks to a thread, so that none waits long for another's last.
  const int rows = std::clamp(batch.num_tokens * heads / (8 * threads), 1, kBlockTokens);
  const int64_t tasks = int64_t{(batch.num_tokens + rows - 1) / rows} * heads;
  const auto for_blocks = [&](int64_t task, const auto& run) {
    const int begin = static_cast<int>(task / heads) * rows, end = begin + rows;
    for (int s = 0; s < batch.num_spans; ++s) {
      const BatchSpan& span = batch.spans[s];
      if (span.first_token >= end || span.first_token + span.num_tokens <= begin) continue;
      const bool ahead = AppendsAhead(shape, span, pages.tables[s]);
      if (!ahead && span.first_token < begin) continue;
      for (int t = 0, n; t < span.num_tokens; t += n) {
        n = BlockTokens(span, t);
        if (ahead && span.first_token + t >= end) break;
        if (ahead && span.first_token + t < begin) continue;
        run({&shape, &span, &pages, s, &operands, static_cast<int>(task % heads), t, n}, ahead);
      }
    }
  };
  if (batch.max_span_tokens > 1) {
    context->pool.Run(tasks, [&](int64_t task, int) {
      for_blocks(task, [&](const AttentionBlock& block, bool ahead) {
        if (ahead) kernel.append(block);
      });
    });
  }
  context->pool.Run(tasks, [&](int64_t task, int worker) {
    for_blocks(task, [&](const AttentionBlock& block, bool ahead) {
      if (!ahead) kernel.append(block);
      kernel.attend(block, context->scratch(worker));
    });
  });
}

absl::Status Attention(const AttentionShape& shape, const BatchView& batch, const StatePages& pages,
                       const AttentionOperands& operands, KernelContext* context) {
  const AttentionKernel kernel{[](const AttentionBlock& block) {
                                 HWY_DYNAMIC_DISPATCH(AppendBlock)(block);
                               },
                               [](const AttentionBlock& block, float* scratch) {
                                 HWY_DYNAMIC_DISPATCH(AttendBlock)(block, scratch);
                               }};
  RunAttention(kernel, shape, batch, pages, operands, context);
  return absl::OkStatus();
}

}  // namespace packrat
#endif  // HWY_ONCE
