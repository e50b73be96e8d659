// Causal attention over paged keys and values: full, or a sliding window, with shared key heads.
#ifndef PACKRAT_KERNELS_ATTENTION_H_
#define PACKRAT_KERNELS_ATTENTION_H_

#include <cstddef>

#include "absl/types/span.h"
#include "kernels/context.h"
#include "kernels/gpu.h"
#include "kernels/paged.h"
#include "kernels/rope.h"

namespace packrat {

inline constexpr int kAttendTile = 256;  // Entries that one step of the softmax takes.
inline constexpr int kPageTokens = 16;   // Positions of a page.

// A page: keys (num_kv_heads, 16, P), rotated, then values (num_kv_heads, 16, P); P = PadTo16(D).
constexpr size_t AttentionPageFloats(int num_kv_heads, int head_dim) {
  return size_t{2} * num_kv_heads * kPageTokens * PadTo16(head_dim);
}

struct AttentionShape {
  int num_heads;
  int num_kv_heads;  // Divides num_heads; query head j uses key head j / (num_heads /
                     // num_kv_heads).
  int head_dim;      // Even.
  int window;        // Visible positions, the query's own included; 0: all.
};

struct AttentionSequence {
  Rows rows;
  PagedState state;  // The ring of a window holds at least 1 + ceil((window - 1) / 16) pages.
};

// Activations of the batch, row-major with their own strides (floats).
struct AttentionOperands {
  const float* q;  // (tokens, num_heads * head_dim), before rotation
  ptrdiff_t q_stride;
  const float* k;  // (tokens, num_kv_heads * head_dim), before rotation
  ptrdiff_t k_stride;
  const float* v;  // (tokens, num_kv_heads * head_dim)
  ptrdiff_t v_stride;
  float* out;  // (tokens, num_heads * head_dim), dense
};

// Floats of KernelContext scratch per thread.
constexpr size_t AttentionScratchFloats(int head_dim) {
  return size_t{16} * (kAttendTile + 4 * PadTo16(head_dim));
}

// Appends the new keys and values to the pages and attends; scale head_dim^-0.5. Sequences are
// distinct. `rope` has rows for all tokens of the batch.
void Attention(const AttentionShape& shape, absl::Span<const AttentionSequence> sequences,
               const AttentionOperands& operands, const RopeTable& rope, KernelContext* context);

namespace gpu {

// Activations and pages have elements of `type` (float32 or bfloat16); page layout as on the CPU.
struct AttentionOperands {
  const void* q;      // (tokens, num_heads * head_dim), before rotation
  const void* k;      // (tokens, num_kv_heads * head_dim), before rotation
  const void* v;      // (tokens, num_kv_heads * head_dim)
  int stride;         // Elements from row to row of q, k and v.
  const float* rope;  // (tokens, head_dim): see FillRope()
  void* out;          // (tokens, num_heads * head_dim), dense
  DType type;
};

// As for RatScratchBytes().
size_t AttentionScratchBytes(const AttentionShape& shape, int max_spans, int max_tokens,
                             int max_context);

absl::Status Attention(const AttentionShape& shape, const GpuBatch& batch, const GpuPages& pages,
                       const AttentionOperands& operands, void* scratch, CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_ATTENTION_H_
