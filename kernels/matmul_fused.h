// Products on the GPU that make what stands before and after them in a layer: with few rows, a
// launch by itself takes longer than what is done in it.
#ifndef PACKRAT_KERNELS_MATMUL_FUSED_H_
#define PACKRAT_KERNELS_MATMUL_FUSED_H_

#include "absl/status/status.h"
#include "kernels/gpu.h"
#include "kernels/matmul.h"

namespace packrat::gpu {

// A product with a norm before it, a gated linear unit after it, or both.
struct FusedProduct {
  MatMulArguments product;
  // Unless norm_x is null, x = RmsNorm() (kernels/elementwise.h), and the product's own is not
  // read.
  const float* norm_x = nullptr;       // (rows, in), dense
  const float* norm_weight = nullptr;  // (in)
  float norm_eps = 0.0f;
  // Unless it is null, Glu() of the product is made, and y is (rows, out / 2), of the type of x.
  const Gating* gating = nullptr;
};

// Of few rows in bfloat16, by a weight that is not quantised. Of how many with a norm depends on
// `in`, since the normed rows lie in shared memory.
bool CanMultiplyFused(const FusedProduct& fused);

// Where it can: the bits of RmsNorm(), MatMul::Run() and Glu(), in one launch.
absl::Status MultiplyFused(const FusedProduct& fused, CudaStream stream);

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MATMUL_FUSED_H_
