// Device and pinned host memory, and CUDA's errors as statuses.
#ifndef PACKRAT_MODELS_GPU_MEMORY_H_
#define PACKRAT_MODELS_GPU_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/gpu.h"

namespace packrat::gpu {

// OK, or the error of a call named `what`: RESOURCE_EXHAUSTED for memory, FAILED_PRECONDITION for a
// machine that cannot do it, else INTERNAL. `error`: a cudaError_t.
absl::Status CudaStatus(int error, const std::string& what);

// The device that this process uses.
struct DeviceInfo {
  std::string name;
  size_t total_bytes = 0, free_bytes = 0;
  int multiprocessors = 0;
  size_t shared_bytes = 0;  // Shared memory that a block may have.
  int compute_major = 0, compute_minor = 0;
};
// Device 0 (CUDA_VISIBLE_DEVICES chooses). FAILED_PRECONDITION: no device, one below compute
// capability 8.0, or a driver too old for this build, with the versions.
absl::StatusOr<DeviceInfo> OpenDevice();

// A block of device memory.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  // RESOURCE_EXHAUSTED with the number of bytes asked for and free.
  static absl::StatusOr<DeviceMemory> Allocate(size_t bytes, const std::string& what);
  static absl::StatusOr<DeviceMemory> AllocateZeroed(size_t bytes, const std::string& what);
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  ~DeviceMemory();

  std::byte* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// Host memory that the device reads and writes directly.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  static absl::StatusOr<PinnedMemory> Allocate(size_t bytes, const std::string& what);
  PinnedMemory(PinnedMemory&& other) noexcept;
  PinnedMemory& operator=(PinnedMemory&& other) noexcept;
  ~PinnedMemory();

  std::byte* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// A point in the work of a stream.
class Event {
 public:
  Event() = default;
  static absl::StatusOr<Event> Create();
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;
  ~Event();

  absl::Status Record(CudaStream stream);
  // Until the work before the last Record() is done; at once if there was none. Errors of that work
  // are of `what`.
  absl::Status Wait(const std::string& what);

 private:
  void* event_ = nullptr;  // cudaEvent_t
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_MEMORY_H_
