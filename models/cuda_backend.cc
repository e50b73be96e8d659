// The one function of libpackrat_cuda.so.
#include "models/build_id.h"
#include "models/gpu/backend.h"

const packrat::gpu::Backend* packrat_cuda_backend() {
  static constexpr packrat::gpu::Backend kBackend = {packrat::kBuildId, &packrat::gpu::DeviceUsable,
                                                     &packrat::gpu::LoadGpuModel};
  return &kBackend;
}
