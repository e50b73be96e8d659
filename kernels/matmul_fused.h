// Products on the GPU that make what stands before them in a layer: with few rows, a launch by
// itself takes longer than what is done in it.
#ifndef PACKRAT_KERNELS_MATMUL_FUSED_H_
#define PACKRAT_KERNELS_MATMUL_FUSED_H_

#include "absl/status/status.h"
#include "kernels/gpu.h"
#include "kernels/matmul.h"

namespace packrat::gpu {

// A product of x = RmsNorm() (kernels/elementwise.h) of rows of floats; the product's own x is not
// read.
struct FusedProduct {
  MatMulArguments product;
  const float* norm_x;       // (rows, in), dense
  const float* norm_weight;  // (in)
  float norm_eps;
};

// Of few rows in bfloat16, by a weight that is not quantised; of how many depends on `in`, since
// the normed rows lie in shared memory.
bool CanMultiplyFused(const FusedProduct& fused);

// Where it can: the bits of RmsNorm() and MatMul::Run(), in one launch.
absl::Status MultiplyFused(const FusedProduct& fused, CudaStream stream);

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MATMUL_FUSED_H_
