// Memory for sequences' state on the device.
#ifndef PACKRAT_MODELS_GPU_DEVICE_STATE_H_
#define PACKRAT_MODELS_GPU_DEVICE_STATE_H_

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/gpu.h"
#include "models/model.h"

namespace packrat::gpu {

// RESOURCE_EXHAUSTED: the device has not so much. What it does is in the order of `stream`. `error`
// outlives it, and gets the first error of what could not be queued: state is lost by then, and no
// step may follow.
absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateDeviceState(size_t bytes, CudaStream stream,
                                                                 absl::Status* error);

// Bytes that are free, less a reserve for the library's and the driver's own needs.
size_t DeviceStateLimit();

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_DEVICE_STATE_H_
