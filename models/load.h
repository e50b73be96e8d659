// Loads a model onto the device that was asked for.
#ifndef PACKRAT_MODELS_LOAD_H_
#define PACKRAT_MODELS_LOAD_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "models/model.h"

namespace packrat {

// kAuto: a GPU if there is one that can be used and the CUDA backend is installed, else the CPU.
enum class DeviceKind { kAuto, kCpu, kCuda };

struct LoadOptions {
  ModelOptions model;
  DeviceKind device = DeviceKind::kAuto;
  // For GPUs; the CPU always does as with `deterministic` and float32.
  bool deterministic = false;      // One order of additions for every batch size.
  bool overlap_kernels = false;    // GpuOptions::overlap_kernels.
  DType state_type = DType::kF32;  // Of Mesa's and gated delta's sealed matrices; or kBF16.
  // Called on a GPU, and on the CPU if it quantises.
  std::function<void(size_t done_bytes, size_t total_bytes)> progress;
};

// OK if a GPU can be used, else why not. NOT_FOUND: the CUDA backend is not installed;
// FAILED_PRECONDITION: it cannot be loaded, or there is no device for it.
absl::Status GpuUsable();

// Loads DIR/config.json and its safetensors. INVALID_ARGUMENT naming file, tensor and reason;
// FAILED_PRECONDITION if kCuda was asked for and no GPU can be used; RESOURCE_EXHAUSTED, with the
// plan, if the device's memory is too small.
absl::StatusOr<std::unique_ptr<LanguageModel>> LoadModel(const std::string& dir,
                                                         const LoadOptions& options);

}  // namespace packrat

#endif  // PACKRAT_MODELS_LOAD_H_
