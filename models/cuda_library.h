// Finds and opens libpackrat_cuda.so.
#ifndef PACKRAT_MODELS_CUDA_LIBRARY_H_
#define PACKRAT_MODELS_CUDA_LIBRARY_H_

#include "absl/status/statusor.h"
#include "models/gpu/backend.h"

namespace packrat {

// The backend of the library beside this program, else of the one in ../lib/packrat. Opened once
// and never closed; the answer of the first call stands.
//
// NOT_FOUND: there is no library, with the paths that were tried. FAILED_PRECONDITION: there is one
// that cannot be used, with its path and why: what the dynamic linker says, or that it is not from
// the build of this program.
absl::StatusOr<const gpu::Backend*> CudaBackend();

}  // namespace packrat

#endif  // PACKRAT_MODELS_CUDA_LIBRARY_H_
