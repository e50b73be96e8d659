#include "models/load.h"

#include "models/cpu_model.h"
#include "models/cuda_library.h"

namespace packrat {

absl::StatusOr<std::unique_ptr<LanguageModel>> LoadModel(const std::string& dir,
                                                         const LoadOptions& options) {
  bool on_gpu = options.device == DeviceKind::kCuda;
  if (options.device == DeviceKind::kAuto) on_gpu = GpuUsable().ok();
  if (!on_gpu) return LoadCpuModel(dir, options.model, options.progress);
  auto backend = CudaBackend();
  if (!backend.ok()) return absl::FailedPreconditionError(backend.status().message());
  return (*backend)->load_model(
      dir, options.model,
      {options.deterministic, options.state_type, options.overlap_kernels, true, options.progress});
}

absl::Status GpuUsable() {
  auto backend = CudaBackend();
  return backend.ok() ? (*backend)->device_usable() : backend.status();
}

}  // namespace packrat
