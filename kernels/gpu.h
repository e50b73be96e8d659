// What the GPU forms of the operations share, for callers without CUDA's headers. Every operation
// has its CPU form in namespace packrat and its GPU form, of the same name, in packrat::gpu; the
// latter queues work on a stream, allocates nothing, waits for nothing, and returns INTERNAL with
// CUDA's name of the error if it could not be queued.
//
// All pointers are to device memory unless said so. Grids depend on the sizes in GpuBatch alone and
// everything else is read from device memory, so that a captured graph serves any batch of its
// size.
//
// Arithmetic: float32, products and sums in an order that depends on positions alone, never on the
// batch or on how a text is cut into spans.
#ifndef PACKRAT_KERNELS_GPU_H_
#define PACKRAT_KERNELS_GPU_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/dtype.h"

struct CUstream_st;

namespace packrat {

using CudaStream = CUstream_st*;

// One sequence of a batch.
struct GpuSpan {
  int32_t first_token = 0;
  int32_t num_tokens = 0;  // 0: an unused place; nothing of the span is read or written.
  int32_t position = 0;    // Of the first token in its text.
  int32_t slot_in = 0, slot_out = 0;
  int32_t tail = 0;
  float cg_tolerance = 0.0f;
  int32_t cg_max_steps = 0;
};

struct GpuBatch {
  const GpuSpan* spans = nullptr;       // (num_spans)
  const int32_t* token_span = nullptr;  // (num_tokens): each token's span, -1: an unused place.
  int num_spans = 0;                    // Unused places included, as in num_tokens.
  int num_tokens = 0;
  int max_span_tokens = 1;  // No span has more; 1: all decode.
  int max_context = 1;      // No span's position + num_tokens is more.
};

// One layer's part of the pages of its class: page b of the batch's span number i is
// base + tables[i * table_stride + b % rings[i]] * page_bytes.
struct GpuPages {
  std::byte* base = nullptr;  // Already at this layer's part.
  size_t page_bytes = 0;
  const int32_t* tables = nullptr;  // (num_spans, table_stride)
  const int32_t* rings = nullptr;   // (num_spans)
  int table_stride = 0;
};

// One layer's part of slots or tails: part i is base + i * stride.
struct GpuParts {
  std::byte* base = nullptr;  // Already at this layer's part.
  size_t stride = 0;          // Bytes.
};

// What the operations of a forward pass say about one span; zeroed before it.
struct GpuStats {
  unsigned long long cg_steps;   // Over all systems.
  unsigned long long cg_solves;  // Systems.
  unsigned cg_unconverged;       // Stopped by cg_max_steps.
  unsigned max_residual_bits;    // Of the largest relative residual, a non-negative float32 (or
                                 // NaN): such bits order as the numbers do, NaN above all.
  unsigned not_finite;           // 1: a NaN or infinity was seen.
};

}  // namespace packrat

#endif  // PACKRAT_KERNELS_GPU_H_
