// RAT+: a gated running average over the whole text, and softmax attention over what it was at a
// chosen part of the positions so far. Wei and Gulcehre, arXiv 2602.18196.
#ifndef PACKRAT_KERNELS_RAT_PLUS_H_
#define PACKRAT_KERNELS_RAT_PLUS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "kernels/batch.h"
#include "kernels/context.h"
#include "kernels/gpu.h"
#include "kernels/rat.h"

namespace packrat {

// Each head has queries, keys and values of its own. Token t sees position s <= t if t - s <=
// window, s < sinks, or (s + 1) % dilation == 0; each position once.
struct RatPlusShape {
  int num_heads;  // H
  int head_dim;   // D, even.
  int dilation;   // 0: no position for that reason.
  int window;     // Positions before the token's own.
  int sinks;

  constexpr int width() const { return num_heads * head_dim; }
  // What is kept of the positions before `end` that have left the window: sinks, then the ends of
  // stretches of `dilation`, in order.
  constexpr int Kept(int end) const {
    if (end <= sinks) return end;
    return dilation == 0 ? sinks : sinks + end / dilation - sinks / dilation;
  }
  // Of them, those that token t sees.
  constexpr int Far(int t) const { return Kept(std::max(0, t - window)); }
  // The page of a position; -1: it has none. Kept entry number e is page e - sinks.
  constexpr int PageOf(int s) const {
    if (dilation == 0 || s < sinks || (s + 1) % dilation != 0) return -1;
    return s / dilation - sinks / dilation;
  }
  // Page p is written with token number (p + 1) * dilation + delay() of the text, when its position
  // leaves the window.
  constexpr int64_t delay() const {
    return window + (dilation == 0 ? int64_t{0} : int64_t{1} * (sinks / dilation) * dilation);
  }
};

// The running average comes first in a tail, as RAT's running chunk does (kernels/rat.h).
// RatPlusAttention() has entries after it: the sinks, then position s in place s % window of a
// ring. An entry is as a page of RAT's, in the type of pages.
constexpr size_t RatPlusTailBytes(const RatPlusShape& shape, size_t element_bytes) {
  return RatTailFloats(shape.num_heads, shape.head_dim) * sizeof(float) +
         (size_t{1} * shape.sinks + shape.window) * RatPageFloats(shape.num_heads, shape.head_dim) *
             element_bytes;
}

// Rows of (width) values: float32, and on a GPU bfloat16 too.
struct RatPlusOperands {
  void* k;  // Keys and values; replaced by their running averages.
  void* v;
  const void* gate;  // Before the sigmoid.
  int stride;        // Elements from row to row of each.
  DType type;
};

// average = sigmoid(gate) * average + (1 - sigmoid(gate)) * x by channel for keys and values, from
// zero before the first token of a text. In float32.
absl::Status RatPlusAverage(const RatPlusShape& shape, const BatchView& batch,
                            const StateParts& tails, const RatPlusOperands& operands,
                            KernelContext* context);

// Floats of KernelContext scratch per thread.
constexpr size_t RatPlusScratchFloats(int head_dim) {
  return size_t{16} * (kAttendTile + 6 * PadTo16(head_dim)) + 16;
}

// Attention over what RatPlusAverage() has made of keys and values, rotated by position; scale
// head_dim^-0.5. Not for a dilation of 1: that is Attention() without a window.
absl::Status RatPlusAttention(const RatPlusShape& shape, const BatchView& batch,
                              const StatePages& pages, const StateParts& tails,
                              const AttentionOperands& operands, KernelContext* context);

namespace gpu {

absl::Status RatPlusAverage(const RatPlusShape& shape, const BatchView& batch,
                            const StateParts& tails, const RatPlusOperands& operands,
                            CudaStream stream);

// Scratch of one RatPlusAttention(), which need not be cleared.
size_t RatPlusScratchBytes(const RatPlusShape& shape, int max_tokens);

absl::Status RatPlusAttention(const RatPlusShape& shape, const BatchView& batch,
                              const StatePages& pages, const StateParts& tails,
                              const AttentionOperands& operands, void* scratch, CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_RAT_PLUS_H_
