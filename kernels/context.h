// What every operation on the CPU needs besides its operands: threads and scratch, made once.
#ifndef PACKRAT_KERNELS_CONTEXT_H_
#define PACKRAT_KERNELS_CONTEXT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/aligned.h"
#include "kernels/thread_pool.h"

namespace packrat {

class KernelContext {
 public:
  // `packed_floats`: largest rows * in_features of any MatMul(); `scratch_floats`: largest need of
  // any operation per thread (each header says its own).
  KernelContext(int threads, size_t packed_floats, size_t scratch_floats)
      : pool(threads),
        packed(packed_floats),
        scratch_floats_(RoundUp16(scratch_floats)),
        scratch_(scratch_floats_ * static_cast<size_t>(pool.size())) {}

  float* scratch(int worker) { return scratch_.data() + scratch_floats_ * worker; }
  size_t bytes() const { return (packed.size() + scratch_.size()) * sizeof(float); }
  // The memory of a context that is made with these arguments.
  static size_t Bytes(int threads, size_t packed_floats, size_t scratch_floats) {
    return (packed_floats + RoundUp16(scratch_floats) * threads) * sizeof(float);
  }

  ThreadPool pool;
  AlignedFloats packed;  // MatMul()'s copy of its left operand.

 private:
  static size_t RoundUp16(size_t n) { return (n + 15) / 16 * 16; }
  const size_t scratch_floats_;
  AlignedFloats scratch_;
};

}  // namespace packrat

#endif  // PACKRAT_KERNELS_CONTEXT_H_
