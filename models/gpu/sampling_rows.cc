#include "models/gpu/sampling_rows.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace packrat::gpu {
namespace {

// For each row, of lists: those of ordinary requests, penalties over some hundred tokens included.
constexpr size_t kListBytes = 2048;

}  // namespace

absl::StatusOr<SamplingRows::Packed> SamplingRows::Packed::Allocate(size_t bytes) {
  Packed packed;
  for (PinnedMemory& side : packed.host) {
    auto host = PinnedMemory::Allocate(bytes, "sampling");
    if (!host.ok()) return host.status();
    side = *std::move(host);
  }
  auto device = DeviceMemory::Allocate(bytes, "sampling parameters");
  if (!device.ok()) return device.status();
  packed.device = *std::move(device);
  return packed;
}

absl::StatusOr<std::unique_ptr<SamplingRows>> SamplingRows::Create(int max_rows) {
  const size_t row_bytes = PackedSamplingBytes({}, max_rows);
  std::unique_ptr<SamplingRows> rows(new SamplingRows(row_bytes));
  auto packed = Packed::Allocate(row_bytes + max_rows * kListBytes);
  if (!packed.ok()) return packed.status();
  rows->packed_ = *std::move(packed);
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

absl::Status SamplingRows::Reserve(size_t list_bytes, CudaStream stream, bool* moved) {
  *moved = false;
  const size_t before = packed_.device.size();
  if (list_bytes <= before - row_bytes_) return absl::OkStatus();
  if (list_bytes > kMostPackedBytes - row_bytes_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the lists of sampling parameters of all requests that run take ", list_bytes,
                     " bytes; a step has room for ", kMostPackedBytes - row_bytes_));
  }
  const size_t bytes = row_bytes_ + list_bytes;
  // Twice as much, so that it happens rarely; where that is not there, what is needed.
  auto grown = Packed::Allocate(std::clamp(2 * before, bytes, kMostPackedBytes));
  if (!grown.ok()) grown = Packed::Allocate(bytes);
  if (!grown.ok()) return grown.status();
  absl::Status status = CudaStatus(cudaStreamSynchronize(stream), "running a step");
  if (!status.ok()) return status;
  packed_ = *std::move(grown);
  *moved = true;
  return absl::OkStatus();
}

absl::Status SamplingRows::Upload(absl::Span<const SamplingRow> rows, int places, int turn,
                                  CudaStream stream) {
  const size_t bytes = PackedSamplingBytes(rows, places);
  PACKRAT_CHECK(bytes <= packed_.device.size(), "lists that nobody has reserved memory for")
      << bytes << " of " << packed_.device.size();
  std::byte* packed = packed_.host[turn].data();
  PackSampling(rows, places, packed);
  return CudaStatus(
      cudaMemcpyAsync(packed_.device.data(), packed, bytes, cudaMemcpyHostToDevice, stream),
      "copying sampling parameters");
}

absl::Status SamplingRows::Launch(int places, int vocab, float* logits, CudaStream stream) const {
  return Sample(packed_.device.data(), places, vocab, logits,
                reinterpret_cast<SampledToken*>(results_.data()), stream);
}

absl::Status SamplingRows::Download(int rows, int turn, CudaStream stream) {
  return CudaStatus(cudaMemcpyAsync(host_results_[turn].data(), results_.data(),
                                    rows * sizeof(SampledToken), cudaMemcpyDeviceToHost, stream),
                    "copying sampled tokens");
}

}  // namespace packrat::gpu
