// RAT+: a gated running average over the whole text, and softmax attention over what it was at a
// chosen part of the positions so far. Wei and Gulcehre, arXiv 2602.18196.
#ifndef PACKRAT_KERNELS_RAT_PLUS_H_
#define PACKRAT_KERNELS_RAT_PLUS_H_

#include <cstddef>

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "kernels/batch.h"
#include "kernels/context.h"
#include "kernels/gpu.h"
#include "kernels/rat.h"
#include "kernels/rat_plus_shape.h"

namespace packrat {

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

// Of the lists of work by which RatPlusAttention() decodes (kernels/attend_plan.h). `type`: of the
// activations.
AttendKind RatPlusKind(const RatPlusShape& shape, DType type);

// Scratch of one RatPlusAttention(): zeros before the first, and afterwards what it left. The same
// for all dials of one head shape.
size_t RatPlusScratchBytes(const RatPlusShape& shape, DType type, int max_spans, int max_tokens);

// work: the list of this step's spans and this kind, on the device.
absl::Status RatPlusAttention(const RatPlusShape& shape, const BatchView& batch,
                              const StatePages& pages, const StateParts& tails,
                              const AttentionOperands& operands, const AttendItem* work,
                              void* scratch, CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_RAT_PLUS_H_
