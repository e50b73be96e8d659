#include "models/load.h"

#include "models/gpu/model.h"

namespace packrat {

absl::StatusOr<std::unique_ptr<LanguageModel>> LoadModelOn(const std::string& dir,
                                                           const LoadOptions& options) {
  bool on_gpu = options.device == DeviceKind::kCuda;
  if (options.device == DeviceKind::kAuto) on_gpu = GpuUsable().ok();
  if (!on_gpu) return LoadModel(dir, options.model);
  return gpu::LoadGpuModel(dir, options.model,
                           {options.deterministic, options.mesa_state, true, options.progress});
}

absl::Status GpuUsable() { return gpu::DeviceUsable(); }

}  // namespace packrat
