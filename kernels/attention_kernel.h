// What Attention() and AttentionInBFloat16() share. Only kernels/attention*.cc include this; all
// others go through kernels/attention.h.
#ifndef PACKRAT_KERNELS_ATTENTION_KERNEL_H_
#define PACKRAT_KERNELS_ATTENTION_KERNEL_H_

#include <algorithm>
#include <cstddef>

#include "hwy/base.h"
#include "kernels/attention.h"
#include "kernels/rope.h"

namespace packrat {

// One key head's part of some tokens of a span, all in one page.
struct AttentionBlock {
  const AttentionShape* shape;
  const BatchSpan* span;
  const StatePages* pages;
  int span_index;
  const AttentionOperands* x;
  int kv_head;
  int t, n;  // Tokens [t, t + n) of the span.

  int position(int i) const { return span->position + i; }
  int row(int i) const { return span->first_token + i; }
  int shared() const { return shape->num_heads / shape->num_kv_heads; }
  std::byte* Page(int block) const {
    const PageTable& table = pages->tables[span_index];
    return pages->base + static_cast<size_t>(table.pages[block % table.ring]) * pages->page_bytes;
  }
  // The entries that token i of the span sees: [first, end).
  int first(int i) const {
    return shape->window > 0 ? std::max(0, position(i) + 1 - shape->window) : 0;
  }
  int end(int i) const { return position(i) + 1; }

  // (head_dim) of q, k or v.
  const float* In(const void* rows, int i, int head) const {
    return static_cast<const float*>(rows) + static_cast<ptrdiff_t>(row(i)) * x->stride +
           head * shape->head_dim;
  }
  ptrdiff_t out_stride() const {
    return static_cast<ptrdiff_t>(shape->num_heads) * shape->head_dim;
  }
  float* Out(int i, int head) const {
    return static_cast<float*>(x->out) + row(i) * out_stride() + head * shape->head_dim;
  }
  // A head of q or k, its first channels rotated, to `out`; zero up to the padding. Always inlined,
  // so that it is compiled for the instruction set of its caller.
  HWY_INLINE void Rotate(const void* rows, int i, int head, float* out) const {
    const int dim = shape->head_dim, rotary = shape->rotary_dim;
    const float* in = In(rows, i, head);
    packrat::Rotate(in, x->rope + static_cast<ptrdiff_t>(row(i)) * rotary, rotary, out);
    // Not std::copy(): where all channels are rotated, its calls for nothing cost 2 % of a prompt.
    for (int d = rotary; d < dim; ++d) out[d] = in[d];
    std::fill(out + dim, out + PadTo16(dim), 0.0f);
  }
};

struct AttentionKernel {
  // Rotates and appends keys and values.
  void (*append)(const AttentionBlock& block);
  // Their queries' results. The keys up to them must be appended.
  void (*attend)(const AttentionBlock& block, float* scratch);
};

// Runs it for all heads and blocks.
void RunAttention(const AttentionKernel& kernel, const AttentionShape& shape,
                  const BatchView& batch, const StatePages& pages,
                  const AttentionOperands& operands, KernelContext* context);

}  // namespace packrat

#endif  // PACKRAT_KERNELS_ATTENTION_KERNEL_H_
