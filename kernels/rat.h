// RAT: a gated running average inside each chunk, softmax attention over finished chunks and the
// running one. Wei et al., arXiv 2507.04416.
#ifndef PACKRAT_KERNELS_RAT_H_
#define PACKRAT_KERNELS_RAT_H_

#include <cstddef>

#include "absl/status/status.h"
#include "kernels/attend_plan.h"
#include "kernels/attention.h"
#include "kernels/batch.h"
#include "kernels/context.h"
#include "kernels/gpu.h"

namespace packrat {

struct RatShape {
  int num_heads;   // H
  int num_groups;  // G: head j uses query and key group j % G.
  int head_dim;    // D, even.
  int chunk_size;  // L, tokens.
  // Width of the input projection's rows: z, v, g (H * D each), q, k (G * D each).
  int projection() const { return (3 * num_heads + 2 * num_groups) * head_dim; }
};

// A page is the entry of one finished chunk: keys (H, P), rotated, then values (H, P).
constexpr size_t RatPageFloats(int num_heads, int head_dim) {
  return size_t{2} * num_heads * PadTo16(head_dim);
}
// The running chunk: keys before rotation (H * D), then values (H * D).
constexpr size_t RatTailFloats(int num_heads, int head_dim) {
  return size_t{2} * PadTo16(num_heads * head_dim);
}

// Activations and pages have elements of `type`: float32, and on a GPU bfloat16 too. Tails are
// float32.
struct RatOperands {
  const void* projection;  // (tokens, shape.projection()), dense, before any activation
  const float* gate_bias;  // (H * D)
  const float* rope;       // (tokens, D): see FillRope(), by chunk index
  void* out;               // (tokens, H * D), dense: sigmoid(z) * attention
  DType type;
};

// Floats of KernelContext scratch per thread.
constexpr size_t RatScratchFloats(int head_dim) {
  return size_t{16} * (kAttendTile + 6 * PadTo16(head_dim)) + 16;
}

// Page c is the entry of chunk c; it is written at the chunk's last token.
absl::Status Rat(const RatShape& shape, const BatchView& batch, const StatePages& pages,
                 const StateParts& tails, const RatOperands& operands, KernelContext* context);

namespace gpu {

// Scratch of one Rat(), zeroed once by its owner; every Rat() leaves zero what it needs zero.
size_t RatScratchBytes(const RatShape& shape, DType type, int max_spans, int max_tokens);

// `type`: of the activations.
AttendKind RatKind(const RatShape& shape, DType type);

// `work`: in device memory, the list of RatKind() for the spans of one token.

absl::Status Rat(const RatShape& shape, const BatchView& batch, const StatePages& pages,
                 const StateParts& tails, const RatOperands& operands, const AttendItem* work,
                 void* scratch, CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_RAT_H_
