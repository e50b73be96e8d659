#include "models/gpu/device_state.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "models/gpu/memory.h"

namespace packrat::gpu {
namespace {

class DeviceState : public StateBuffer {
 public:
  DeviceState(DeviceMemory memory, cudaStream_t stream)
      : memory_(std::move(memory)), stream_(stream) {}
  std::byte* data() const override { return memory_.data(); }
  size_t size() const override { return memory_.size(); }
  // An error of what does not wait shows at the next step.
  void Fill(size_t offset, size_t bytes, unsigned char value) override {
    cudaMemsetAsync(At(offset, bytes), value, bytes, stream_);
  }
  void Copy(size_t from, size_t to, size_t bytes) override {
    PACKRAT_CHECK(from <= to ? bytes <= to - from : bytes <= from - to)
        << from << " and " << to << " are less than " << bytes << " apart";
    cudaMemcpyAsync(At(to, bytes), At(from, bytes), bytes, cudaMemcpyDeviceToDevice, stream_);
  }
  void Write(size_t to, const std::byte* from, size_t bytes) override {
    cudaMemcpyAsync(At(to, bytes), from, bytes, cudaMemcpyHostToDevice, stream_);
  }
  absl::Status Read(size_t from, std::byte* to, size_t bytes) override {
    absl::Status status =
        CudaStatus(cudaMemcpyAsync(to, At(from, bytes), bytes, cudaMemcpyDeviceToHost, stream_),
                   "reading state");
    return status.ok() ? CudaStatus(cudaStreamSynchronize(stream_), "reading state") : status;
  }

 private:
  std::byte* At(size_t offset, size_t bytes) const {
    PACKRAT_CHECK(offset <= size() && bytes <= size() - offset) << offset << " + " << bytes;
    return data() + offset;
  }

  DeviceMemory memory_;
  cudaStream_t stream_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateDeviceState(size_t bytes, CudaStream stream) {
  auto memory = DeviceMemory::Allocate(bytes, "the state of all sequences");
  if (!memory.ok()) return memory.status();
  return std::make_unique<DeviceState>(*std::move(memory), stream);
}

size_t DeviceStateLimit() {
  auto device = OpenDevice();
  if (!device.ok()) return 0;
  const size_t reserve = std::max(device->total_bytes / 32, size_t{256} << 20);
  return device->free_bytes - std::min(device->free_bytes, reserve);
}

}  // namespace packrat::gpu
