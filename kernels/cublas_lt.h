// cuBLASLt, opened when the first product needs it: so that what is there serves, of CUDA 13 or 12,
// and a machine without it hears what was looked for. What is used of it has the same names,
// numbers and structures in both (cublasLt.h of 11.4 and 13.0 were compared).
#ifndef PACKRAT_KERNELS_CUBLAS_LT_H_
#define PACKRAT_KERNELS_CUBLAS_LT_H_

#include "absl/status/status.h"

namespace packrat::gpu {

// Opens libcublasLt.so.13, else libcublasLt.so.12, where the library or program that this is
// compiled into looks for its own; later calls say the same. Before it is OK, no function of the
// library may be called. UNAVAILABLE with both names and why neither serves.
absl::Status OpenCublasLt();

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_CUBLAS_LT_H_
