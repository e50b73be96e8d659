// What a build without CUDA says of GPUs.
#include "models/gpu/model.h"

namespace packrat::gpu {

absl::Status DeviceUsable() {
  return absl::FailedPreconditionError("this build has no CUDA; use --device=cpu or auto");
}

absl::StatusOr<std::unique_ptr<LanguageModel>> LoadGpuModel(const std::string&, const ModelOptions&,
                                                            const GpuOptions&) {
  return DeviceUsable();
}

}  // namespace packrat::gpu
