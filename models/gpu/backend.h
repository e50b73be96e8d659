// The CUDA backend as a library of its own, libpackrat_cuda.so: a program opens it while it runs
// (models/cuda_library.h), so that one program serves machines with CUDA and without.
//
// Both sides are C++ and share types: they must come from one build. The library shows one function
// and nothing else; what it has in common with the program (kernels/, models/) is its own copy.
#ifndef PACKRAT_MODELS_GPU_BACKEND_H_
#define PACKRAT_MODELS_GPU_BACKEND_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/gpu/model.h"
#include "models/model.h"

namespace packrat::gpu {

struct Backend {
  // First, whatever else changes: kBuildId of the library. Nothing below may be read unless it is
  // that of the program.
  const char* build_id;
  // As in models/gpu/model.h.
  absl::Status (*device_usable)();
  absl::StatusOr<std::unique_ptr<LanguageModel>> (*load_model)(const std::string& dir,
                                                               const ModelOptions& options,
                                                               const GpuOptions& gpu_options);
};

}  // namespace packrat::gpu

// Never null; valid as long as the library is open.
extern "C" const packrat::gpu::Backend* packrat_cuda_backend();

#endif  // PACKRAT_MODELS_GPU_BACKEND_H_
