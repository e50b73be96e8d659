#include "models/gpu/device_state.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/check.h"
#include "models/gpu/memory.h"

namespace packrat::gpu {
namespace {

constexpr size_t kStagingBytes = size_t{4} << 20;

class DeviceState : public StateBuffer {
 public:
  DeviceState(DeviceMemory memory, PinnedMemory staging, cudaStream_t stream)
      : memory_(std::move(memory)), staging_(std::move(staging)), stream_(stream) {}
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
  // The device is waited for once for as many pieces as the staging memory holds.
  absl::Status Read(absl::Span<const Piece> pieces, std::byte* to) override {
    size_t staged = 0;
    const auto flush = [&] {
      const absl::Status status = CudaStatus(cudaStreamSynchronize(stream_), "reading state");
      std::memcpy(to, staging_.data(), staged);
      to += std::exchange(staged, 0);
      return status;
    };
    for (const Piece& piece : pieces) {
      const std::byte* from = At(piece.from, piece.bytes);
      for (size_t left = piece.bytes; left > 0;) {
        if (staged == staging_.size()) {
          const absl::Status status = flush();
          if (!status.ok()) return status;
        }
        const size_t bytes = std::min(left, staging_.size() - staged);
        const absl::Status status = CudaStatus(
            cudaMemcpyAsync(staging_.data() + staged, from, bytes, cudaMemcpyDeviceToHost, stream_),
            "reading state");
        if (!status.ok()) return status;
        staged += bytes;
        from += bytes;
        left -= bytes;
      }
    }
    return flush();
  }

 private:
  std::byte* At(size_t offset, size_t bytes) const {
    PACKRAT_CHECK(offset <= size() && bytes <= size() - offset) << offset << " + " << bytes;
    return data() + offset;
  }

  DeviceMemory memory_;
  PinnedMemory staging_;
  cudaStream_t stream_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateDeviceState(size_t bytes, CudaStream stream) {
  auto memory = DeviceMemory::Allocate(bytes, "the state of all sequences");
  if (!memory.ok()) return memory.status();
  auto staging = PinnedMemory::Allocate(std::min(bytes, kStagingBytes), "reading state");
  if (!staging.ok()) return staging.status();
  return std::make_unique<DeviceState>(*std::move(memory), *std::move(staging), stream);
}

size_t DeviceStateLimit() {
  auto device = OpenDevice();
  if (!device.ok()) return 0;
  const size_t reserve = std::max(device->total_bytes / 32, size_t{256} << 20);
  return device->free_bytes - std::min(device->free_bytes, reserve);
}

}  // namespace packrat::gpu
