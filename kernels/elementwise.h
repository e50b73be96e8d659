// Operations on rows that look at one row alone.
#ifndef PACKRAT_KERNELS_ELEMENTWISE_H_
#define PACKRAT_KERNELS_ELEMENTWISE_H_

#include <cstddef>

#include "kernels/context.h"

namespace packrat {

// y = x * rsqrt(mean(x^2) + eps) * weight, row by row. x, y: (rows, n), dense; may be the same.
void RmsNorm(const float* x, int rows, int n, const float* weight, float eps, float* y,
             KernelContext* context);

// gate = silu(gate) * up. (rows, n), dense.
void SwiGlu(float* gate, const float* up, int rows, int n, KernelContext* context);

// x = x * (1 + erf(x / sqrt 2)) / 2: the exact GELU. (rows, n), dense.
void Gelu(float* x, int rows, int n, KernelContext* context);

// True if every one of the n values is finite.
bool AllFinite(const float* x, size_t n);

}  // namespace packrat

#endif  // PACKRAT_KERNELS_ELEMENTWISE_H_
