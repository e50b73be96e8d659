// What of a model fits on a device, and what to say if it does not.
#ifndef PACKRAT_MODELS_GPU_DEVICE_FIT_H_
#define PACKRAT_MODELS_GPU_DEVICE_FIT_H_

#include <cstddef>

#include "absl/status/status.h"
#include "kernels/dtype.h"
#include "models/config.h"
#include "models/gpu/memory.h"
#include "models/state_layout.h"

namespace packrat::gpu {

// FAILED_PRECONDITION: Mesa's kernels hold a head's matrices in shared memory, and the device has
// too little of it.
absl::Status CheckSharedMemory(const ModelConfig& config, DType mesa_state,
                               const DeviceInfo& device);

// RESOURCE_EXHAUSTED with the plan: weights and scratch, in bytes, are more than is free.
// `context`: tokens of the longest text.
absl::Status CheckMemory(size_t weights, size_t scratch, const StateLayout& layout, int context,
                         const DeviceInfo& device);

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_DEVICE_FIT_H_
