// What the GPU forms of the operations share, for callers without CUDA's headers. Every operation
// has its CPU form in namespace packrat and its GPU form, of the same name and arguments, in
// packrat::gpu; the latter queues work on a stream, allocates nothing, waits for nothing, and
// returns INTERNAL with CUDA's name of the error if it could not be queued.
//
// All pointers are to device memory unless said so. Grids depend on the sizes in BatchView alone
// and everything else is read from device memory, so that a captured graph serves any batch of its
// size.
//
// Arithmetic: float32, products and sums in an order that depends on positions alone, never on the
// batch or on how a text is cut into spans.
#ifndef PACKRAT_KERNELS_GPU_H_
#define PACKRAT_KERNELS_GPU_H_

#include "absl/status/status.h"
#include "kernels/batch.h"
#include "kernels/dtype.h"

struct CUstream_st;

namespace packrat {

// A stream, and how kernels are launched on it.
struct CudaStream {
  // NOLINTNEXTLINE(google-explicit-constructor)
  CudaStream(CUstream_st* s = nullptr, bool launches_overlap = false)
      : stream(s), overlap(launches_overlap) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  operator CUstream_st*() const { return stream; }

  CUstream_st* stream;
  // A kernel may begin while the one before it ends, and waits for it by itself (CUDA calls it
  // programmatic dependent launch). Compute capability 9.0 or more; what is queued before the first
  // such kernel must be a kernel too.
  bool overlap;
};

}  // namespace packrat

#endif  // PACKRAT_KERNELS_GPU_H_
