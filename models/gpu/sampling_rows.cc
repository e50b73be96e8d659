#include "models/gpu/sampling_rows.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

namespace packrat::gpu {
namespace {

// Room for the lists of ordinary requests; longer ones grow it once.
constexpr size_t kInitialBytes = size_t{1} << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<SamplingRows>> SamplingRows::Create(int max_rows) {
  std::unique_ptr<SamplingRows> rows(new SamplingRows);
  const size_t plain = PackedSamplingBytes({}, max_rows);
  if (absl::Status status = rows->Grow(plain + kInitialBytes); !status.ok()) return status;
  const size_t bytes = static_cast<size_t>(max_rows) * sizeof(SampledToken);
  for (PinnedMemory& results : rows->host_results_) {
    auto host = PinnedMemory::Allocate(bytes, "sampled tokens");
    if (!host.ok()) return host.status();
    results = *std::move(host);
  }
  auto device = DeviceMemory::AllocateZeroed(bytes, "sampled tokens");
  if (!device.ok()) return device.status();
  rows->results_ = *std::move(device);
  return rows;
}

absl::Status SamplingRows::Grow(size_t bytes) {
  for (PinnedMemory& packed : host_packed_) {
    auto host = PinnedMemory::Allocate(bytes, "sampling");
    if (!host.ok()) return host.status();
    packed = *std::move(host);
  }
  auto device = DeviceMemory::Allocate(bytes, "sampling parameters");
  if (!device.ok()) return device.status();
  packed_ = *std::move(device);
  return absl::OkStatus();
}

absl::Status SamplingRows::Upload(absl::Span<const SamplingRow> rows, int places, int turn,
                                  CudaStream stream, bool* moved) {
  const size_t bytes = PackedSamplingBytes(rows, places);
  *moved = bytes > packed_.size();
  if (*moved) {
    absl::Status status = CudaStatus(cudaStreamSynchronize(stream), "running a step");
    if (status.ok()) status = Grow(std::max(bytes, 2 * packed_.size()));
    if (!status.ok()) return status;
  }
  std::byte* packed = host_packed_[turn].data();
  PackSampling(rows, places, packed);
  return CudaStatus(cudaMemcpyAsync(packed_.data(), packed, bytes, cudaMemcpyHostToDevice, stream),
                    "copying sampling parameters");
}

absl::Status SamplingRows::Launch(int places, int vocab, float* logits, CudaStream stream) const {
  return Sample(packed_.data(), places, vocab, logits,
                reinterpret_cast<SampledToken*>(results_.data()), stream);
}

absl::Status SamplingRows::Download(int rows, int turn, CudaStream stream) {
  return CudaStatus(cudaMemcpyAsync(host_results_[turn].data(), results_.data(),
                                    rows * sizeof(SampledToken), cudaMemcpyDeviceToHost, stream),
                    "copying sampled tokens");
}

}  // namespace packrat::gpu
