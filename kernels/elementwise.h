// Operations on rows that look at one row alone.
#ifndef PACKRAT_KERNELS_ELEMENTWISE_H_
#define PACKRAT_KERNELS_ELEMENTWISE_H_

#include <cstddef>

#include "kernels/context.h"
#include "kernels/gpu.h"

namespace packrat {

struct SampledToken;  // kernels/sampling.h, where SampledInRow() is as well.

// y = x * rsqrt(mean(x^2) + eps) * weight, row by row. x, y: (rows, n), dense; may be the same.
void RmsNorm(const float* x, int rows, int n, const float* weight, float eps, float* y,
             KernelContext* context);

// gate = silu(gate) * up. (rows, n), dense.
void SwiGlu(float* gate, const float* up, int rows, int n, KernelContext* context);

// x = x * (1 + erf(x / sqrt 2)) / 2: the exact GELU. (rows, n), dense.
void Gelu(float* x, int rows, int n, KernelContext* context);

// True if every one of the n values is finite.
bool AllFinite(const float* x, size_t n);

namespace gpu {

// `type`, where there is one, is that of the activations: float32 or bfloat16. The residual stream
// is always float32.

// x[t] = row tokens[t] of the embedding (vocab, n), of `type`; zero for unused tokens (-1), and for
// a SampledInRow() that has nothing in `sampled`, the results of the step before.
absl::Status Embed(const void* embedding, DType type, const int32_t* tokens,
                   const SampledToken* sampled, int rows, int n, float* x, CudaStream stream);

// y = x * rsqrt(mean(x^2) + eps) * weight. x: (rows, n) float32; y: (rows, n) of `type`.
absl::Status RmsNorm(const float* x, int rows, int n, const float* weight, float eps, void* y,
                     DType type, CudaStream stream);

// The same for chosen rows: y[i] from x[indices[i]]. An index of -1: y[i] is zero.
absl::Status RmsNormRows(const float* x, const int32_t* indices, int rows, int n,
                         const float* weight, float eps, void* y, DType type, CudaStream stream);

// y (rows, n) = silu(gate) * up; gate_up: (rows, 2n), the gate first in each row.
absl::Status SwiGlu(const void* gate_up, int rows, int n, void* y, DType type, CudaStream stream);

// In place: x = x * (1 + erf(x / sqrt 2)) / 2. x: (rows, n).
absl::Status Gelu(void* x, int rows, int n, DType type, CudaStream stream);

// Rows of cosines and sines as in RopeTable, for the tokens of a batch: angle = (position /
// divisor)
// * frequencies[i] in double precision. frequencies: (head_dim / 2); rope: (tokens, head_dim).
absl::Status FillRope(const GpuBatch& batch, const double* frequencies, int head_dim, int divisor,
                      float* rope, CudaStream stream);

// Sets not_finite of every span of which one of the rows of x (tokens, n) has a NaN or infinity.
absl::Status CheckFinite(const GpuBatch& batch, const float* x, int n, GpuStats* stats,
                         CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_ELEMENTWISE_H_
