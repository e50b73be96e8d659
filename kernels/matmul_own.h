// Matrix products on the GPU by kernels of our own, beside the library's: gpu::MatMul's few rows,
// its deterministic mode, and whatever the library does not do. Any sizes; 16 bytes at a time where
// `in` and the addresses allow it.
#ifndef PACKRAT_KERNELS_MATMUL_OWN_H_
#define PACKRAT_KERNELS_MATMUL_OWN_H_

#include "absl/status/status.h"
#include "kernels/gpu.h"
#include "kernels/matmul.h"

namespace packrat::gpu {

// x bfloat16, the weight too or quantised, y either of bfloat16 and float32. On the tensor cores. A
// row's bits do not depend on the number of rows.
absl::Status MultiplyBf16(const MatMulArguments& arguments, CudaStream stream);

// x and y float32, the weight too or quantised: one chain fma(x[k], w[k], sum) for k = 0, 1, ...
// for each output, as on the CPU. A row's bits do not depend on the number of rows.
absl::Status MultiplyF32(const MatMulArguments& arguments, CudaStream stream);

// The same for up to kFewRows rows at the speed of memory: an output's sum is divided among lanes,
// or, by a quantised weight, among warps too. A row's bits do not depend on the number of rows, but
// differ from those of MultiplyF32().
inline constexpr int kFewRows = 8;
absl::Status MultiplyFewRowsF32(const MatMulArguments& arguments, CudaStream stream);

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MATMUL_OWN_H_
