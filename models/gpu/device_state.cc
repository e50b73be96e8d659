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
  void Fill(size_t offset, size_t bytes, unsigned char value) override {
    PACKRAT_CHECK(offset + bytes <= memory_.size());
    // An error shows at the next step, which waits for this.
    cudaMemsetAsync(memory_.data() + offset, value, bytes, stream_);
  }

 private:
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
