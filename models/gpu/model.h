// A loaded model on a CUDA device. See models/model.h for the contract.
//
// A step that only decodes is captured once for its size as a CUDA graph; sizes are rounded up, and
// everything that changes from step to step is read from device memory, so that a few graphs serve
// every batch. Steps with prompts are launched kernel by kernel.
#ifndef PACKRAT_MODELS_GPU_MODEL_H_
#define PACKRAT_MODELS_GPU_MODEL_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "models/model.h"

namespace packrat::gpu {

struct GpuOptions {
  // One order of additions for every number of rows: the logits of a sequence are the same bits
  // alone and in company.
  bool deterministic = false;
  // Of the sealed matrices of Mesa and gated delta: float32, or bfloat16 at half the memory and
  // traffic, with some loss.
  DType state_type = DType::kF32;
  // A decoding step's kernels begin while those before them end: programmatic dependent launch. The
  // same bits. Compute capability 9.0 or more.
  bool overlap_kernels = false;
  bool graphs = true;  // Off: every kernel is launched by itself, for finding faults.
  // Told while loading how many bytes of weights are on the device.
  std::function<void(size_t done_bytes, size_t total_bytes)> progress;
};

// OK if this machine has a device that the build can use, and cuBLASLt. FAILED_PRECONDITION or
// UNAVAILABLE, with the reason, if not.
absl::Status DeviceUsable();

// FAILED_PRECONDITION: no device that can run it, or kernels on it cannot overlap.
// RESOURCE_EXHAUSTED: too little device memory, with the plan. INVALID_ARGUMENT as LoadCpuModel().
absl::StatusOr<std::unique_ptr<LanguageModel>> LoadGpuModel(const std::string& dir,
                                                            const ModelOptions& options,
                                                            const GpuOptions& gpu_options);

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_MODEL_H_
