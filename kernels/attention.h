// Causal attention over paged keys and values: full, or a sliding window, with shared key heads.
#ifndef PACKRAT_KERNELS_ATTENTION_H_
#define PACKRAT_KERNELS_ATTENTION_H_

#include <cmath>
#include <cstddef>

#include "absl/status/status.h"
#include "kernels/attend_plan.h"
#include "kernels/batch.h"
#include "kernels/context.h"
#include "kernels/gpu.h"

namespace packrat {

inline constexpr int kAttendTile = 256;  // Entries that one step of the softmax takes.

// A page: keys (num_kv_heads, 16, P), rotated, then values (num_kv_heads, 16, P); P = PadTo16(D).
constexpr size_t AttentionPageFloats(int num_kv_heads, int head_dim) {
  return size_t{2} * num_kv_heads * kBlockTokens * PadTo16(head_dim);
}

struct AttentionShape {
  int num_heads;
  int num_kv_heads;  // Divides num_heads; query head j uses key head j / (num_heads /
                     // num_kv_heads).
  int head_dim;      // Even.
  int window;        // Visible positions, the query's own included; 0: all.
  int rotary_dim;    // First channels of a head that are rotated, among themselves. Even; 0: none.
  float temperature = 0.0f;  // What scores are divided by; 0: the square root of head_dim.
};

inline float ScoreTemperature(const AttentionShape& shape) {
  return shape.temperature != 0.0f ? shape.temperature
                                   : std::sqrt(static_cast<float>(shape.head_dim));
}

// Activations and pages have elements of `type`: float32, and on a GPU bfloat16 too.
struct AttentionOperands {
  const void* q;      // (tokens, num_heads * head_dim), before rotation
  const void* k;      // (tokens, num_kv_heads * head_dim), before rotation
  const void* v;      // (tokens, num_kv_heads * head_dim)
  int stride;         // Elements from row to row of q, k and v.
  const float* rope;  // (tokens, rotary_dim): see FillRope(); not read where that is 0
  void* out;          // (tokens, num_heads * head_dim), dense
  DType type;
};

// Floats of KernelContext scratch per thread.
constexpr size_t AttentionScratchFloats(int head_dim) {
  return size_t{16} * (kAttendTile + 4 * PadTo16(head_dim));
}

// Appends the new keys and values to the pages and attends. The ring of a window
// holds at least 1 + ceil((window - 1) / 16) pages.
absl::Status Attention(const AttentionShape& shape, const BatchView& batch, const StatePages& pages,
                       const AttentionOperands& operands, KernelContext* context);

// The same in the processor's dot products of bfloat16, with half the bytes of pages. Only where
// CpuHasBFloat16() (kernels/cpu_target.h).
//
// Queries and keys, once rotated, values, and the softmax's weights are rounded to bfloat16; sums,
// the softmax and `operands` are float32. A page: keys (num_kv_heads, P / 2, 16, 2), pairs of
// channels side by side, then values (num_kv_heads, 16, P), in bfloat16.
absl::Status AttentionInBFloat16(const AttentionShape& shape, const BatchView& batch,
                                 const StatePages& pages, const AttentionOperands& operands,
                                 KernelContext* context);

// Floats of KernelContext scratch per thread.
size_t AttentionInBFloat16ScratchFloats();

namespace gpu {

// As for RatScratchBytes().
size_t AttentionScratchBytes(const AttentionShape& shape, DType type, int max_spans,
                             int max_tokens);

// `type`: of the activations.
AttendKind AttentionKind(const AttentionShape& shape, DType type);

// `work`: in device memory, the list of AttentionKind() for the spans of one token.
absl::Status Attention(const AttentionShape& shape, const BatchView& batch, const StatePages& pages,
                       const AttentionOperands& operands, const AttendItem* work, void* scratch,
                       CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_ATTENTION_H_
