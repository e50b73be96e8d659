#include "models/gpu/memory.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace packrat::gpu {

absl::Status CudaStatus(int error, const std::string& what) {
  const auto e = static_cast<cudaError_t>(error);
  if (e == cudaSuccess) return absl::OkStatus();
  const std::string text =
      absl::StrCat(what, ": ", cudaGetErrorString(e), " (", cudaGetErrorName(e), ")");
  switch (e) {
    case cudaErrorMemoryAllocation:
      return absl::ResourceExhaustedError(text);
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorNoKernelImageForDevice:
      return absl::FailedPreconditionError(text);
    default:
      return absl::InternalError(text);
  }
}

namespace {

std::string VersionText(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

// The driver that a CUDA release came with, as nvidia-smi shows it: later ones of its major version
// run with it, too.
std::string MinimumDriver(int runtime) {
  return runtime / 1000 == 13 ? " (driver 580 or newer)" : "";
}

}  // namespace

absl::StatusOr<DeviceInfo> OpenDevice() {
  int count = 0, driver = 0, runtime = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (error == cudaErrorInsufficientDriver && driver > 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the driver is too old: it supports CUDA up to ", VersionText(driver),
                     ", this build needs ", VersionText(runtime), MinimumDriver(runtime)));
  }
  // A machine without a driver reports version 0 and an insufficient driver.
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver || count == 0) {
    return absl::FailedPreconditionError("no CUDA device");
  }
  absl::Status status = CudaStatus(error, "looking for CUDA devices");
  if (!status.ok()) return status;
  if (status = CudaStatus(cudaSetDevice(0), "opening CUDA device 0"); !status.ok()) return status;
  cudaDeviceProp properties;
  DeviceInfo info;
  status = CudaStatus(cudaGetDeviceProperties(&properties, 0), "asking CUDA device 0");
  if (!status.ok()) return status;
  status = CudaStatus(cudaMemGetInfo(&info.free_bytes, &info.total_bytes), "asking for memory");
  if (!status.ok()) return status;
  info.name = properties.name;
  info.multiprocessors = properties.multiProcessorCount;
  info.shared_bytes = properties.sharedMemPerBlockOptin;
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  if (info.compute_major < 8) {
    return absl::FailedPreconditionError(absl::StrCat(info.name, " has compute capability ",
                                                      info.compute_major, ".", info.compute_minor,
                                                      "; this build needs 8.0 or more"));
  }
  return info;
}

absl::StatusOr<DeviceMemory> DeviceMemory::Allocate(size_t bytes, const std::string& what) {
  DeviceMemory memory;
  if (bytes == 0) return memory;
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // Not an error of what comes next.
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    return absl::ResourceExhaustedError(absl::StrCat(
        what, " need ", bytes, " bytes of device memory, of which ", free, " are free"));
  }
  absl::Status status = CudaStatus(error, what);
  if (!status.ok()) return status;
  memory.data_ = static_cast<std::byte*>(data);
  memory.bytes_ = bytes;
  return memory;
}

absl::StatusOr<DeviceMemory> DeviceMemory::AllocateZeroed(size_t bytes, const std::string& what) {
  auto memory = Allocate(bytes, what);
  if (!memory.ok() || bytes == 0) return memory;
  absl::Status status = CudaStatus(cudaMemset(memory->data(), 0, bytes), what);
  // Other streams do not wait for the default stream.
  if (status.ok()) status = CudaStatus(cudaDeviceSynchronize(), what);
  if (!status.ok()) return status;
  return memory;
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }
DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
// An error here is one of earlier work, which has been reported.
DeviceMemory::~DeviceMemory() { cudaFree(data_); }

absl::StatusOr<PinnedMemory> PinnedMemory::Allocate(size_t bytes, const std::string& what) {
  PinnedMemory memory;
  if (bytes == 0) return memory;
  void* data = nullptr;
  absl::Status status =
      CudaStatus(cudaHostAlloc(&data, bytes, cudaHostAllocDefault),
                 absl::StrCat("allocating ", bytes, " bytes of pinned memory for ", what));
  if (!status.ok()) {
    cudaGetLastError();  // Not an error of what comes next.
    return status;
  }
  memory.data_ = static_cast<std::byte*>(data);
  memory.bytes_ = bytes;
  return memory;
}

PinnedMemory::PinnedMemory(PinnedMemory&& other) noexcept { *this = std::move(other); }
PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
PinnedMemory::~PinnedMemory() { cudaFreeHost(data_); }

absl::StatusOr<Event> Event::Create() {
  cudaEvent_t made = nullptr;
  absl::Status status =
      CudaStatus(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), "making an event");
  if (!status.ok()) return status;
  Event event;
  event.event_ = made;
  return event;
}

Event::Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}

Event& Event::operator=(Event&& other) noexcept {
  std::swap(event_, other.event_);
  return *this;
}

Event::~Event() {
  if (event_ != nullptr) cudaEventDestroy(static_cast<cudaEvent_t>(event_));
}

absl::Status Event::Record(CudaStream stream) {
  return CudaStatus(cudaEventRecord(static_cast<cudaEvent_t>(event_), stream),
                    "recording an event");
}

absl::Status Event::Wait(const std::string& what) {
  return CudaStatus(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)), what);
}

}  // namespace packrat::gpu
