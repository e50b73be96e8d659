#include "models/gpu/weights.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/check.h"
#include "kernels/quantized.h"

namespace packrat::gpu {
namespace {

constexpr size_t kAlign = 256;

size_t Aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Or matrices of experts; beside them only few tensors have three dimensions and no 1 among them.
bool IsMatrix(const TensorView& view) {
  return view.shape.size() == 2 || (view.shape.size() == 3 && view.shape[1] > 1);
}

}  // namespace

DType ActivationType(const Checkpoint& checkpoint) {
  for (const auto& [name, view] : checkpoint.tensors()) {
    if (IsMatrix(view) && view.type != TensorType::kBF16) return DType::kF32;
  }
  return DType::kBF16;
}

// What is no matrix is little, and twice as much as is read has room for what is made of it.
size_t GpuWeights::planned_bytes() const {
  return matrix_bytes_ + 2 * loader_->float_bytes() + uploads_ * kAlign;
}

absl::StatusOr<std::unique_ptr<GpuWeights>> GpuWeights::Create(WeightLoader* loader, DType type,
                                                               size_t weight_bytes,
                                                               Progress progress) {
  auto weights = std::make_unique<GpuWeights>(loader, type);
  weights->progress_ = std::move(progress);
  auto memory = DeviceMemory::Allocate(weight_bytes, "the weights");
  if (!memory.ok()) return memory.status();
  weights->memory_ = *std::move(memory);
  auto staging = PinnedMemory::Allocate(2 * kStagingBytes, "loading");
  if (!staging.ok()) return staging.status();
  weights->staging_ = *std::move(staging);
  for (Event& copied : weights->copied_) {
    auto event = Event::Create();
    if (!event.ok()) return event.status();
    copied = *std::move(event);
  }
  absl::Status status = CudaStatus(
      cudaStreamCreateWithFlags(&weights->stream_, cudaStreamNonBlocking), "making a stream");
  if (!status.ok()) return status;
  return weights;
}

GpuWeights::~GpuWeights() {
  if (stream_ != nullptr) {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
}

void GpuWeights::Check(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void* GpuWeights::Take(size_t bytes) {
  void* part = memory_.data() + used_;
  used_ += Aligned(bytes);
  PACKRAT_CHECK(used_ <= memory_.size(), "more weights than the checkpoint has");
  return part;
}

std::byte* GpuWeights::NextStaging() {
  turn_ = 1 - turn_;
  Check(copied_[turn_].Wait("copying weights"));
  return staging_.data() + turn_ * kStagingBytes;
}

void GpuWeights::Copy(const uint8_t* from, DType from_type, size_t elements, DType to_type,
                      void* to) {
  const size_t from_size = DTypeBytes(from_type), to_size = DTypeBytes(to_type);
  const size_t step = kStagingBytes / std::max(from_size, to_size);
  for (size_t done = 0; done < elements && status_.ok(); done += step) {
    const size_t n = std::min(step, elements - done);
    std::byte* staging = NextStaging();
    const uint8_t* source = from + done * from_size;
    if (from_type == to_type) {
      std::memcpy(staging, source, n * to_size);
    } else {
      PACKRAT_CHECK(to_type == DType::kF32);
      WidenStored(source, from_type, n, reinterpret_cast<float*>(staging));
    }
    Check(CudaStatus(cudaMemcpyAsync(static_cast<std::byte*>(to) + done * to_size, staging,
                                     n * to_size, cudaMemcpyHostToDevice, stream_),
                     "copying weights"));
    Check(copied_[turn_].Record(stream_));
  }
  done_bytes_ += elements * to_size;
  if (progress_) progress_(std::min(done_bytes_, memory_.size()), memory_.size());
}

Weight GpuWeights::Load(const std::vector<Rows>& parts, int in, Use, int count) {
  int rows = 0;
  for (const Rows& part : parts) {
    rows += part.rows;
    if (IsQuantized(loader_->TypeOf(part.name))) {
      loader_->Refuse(part.name, "is quantised, which only the CPU multiplies by");
    }
  }
  Weight weight{nullptr, type_, rows / count, in};
  const size_t bytes = static_cast<size_t>(rows) * in * DTypeBytes(type_);
  matrix_bytes_ += Aligned(bytes);
  std::byte* to = nullptr;
  if (loader_->mode() == WeightLoader::Mode::kLoad && status_.ok() && loader_->status().ok()) {
    to = static_cast<std::byte*>(Take(bytes));
    weight.data = to;
  }
  for (const Rows& part : parts) {
    loader_->Rows(part.name, part.Shape(in), part.first, part.rows,
                  [&](const WeightLoader::Piece& piece) {
                    if (!status_.ok()) return;
                    const auto elements = static_cast<size_t>(piece.rows) * in;
                    Copy(piece.data, piece.type, elements, type_, to);
                    to += elements * DTypeBytes(type_);
                  });
  }
  return weight;
}

const float* GpuWeights::Upload(std::vector<float> values) {
  ++uploads_;
  if (values.empty() || !status_.ok()) return nullptr;
  void* to = Take(values.size() * sizeof(float));
  Copy(reinterpret_cast<const uint8_t*>(values.data()), DType::kF32, values.size(), DType::kF32,
       to);
  return static_cast<const float*>(to);
}

absl::Status GpuWeights::Finish() {
  if (absl::Status status = loader_->Finish(); !status.ok()) return status;
  Check(CudaStatus(cudaStreamSynchronize(stream_), "copying weights"));
  staging_ = PinnedMemory();
  // Part of the memory was reserved for alignment, so the pieces do not add up to all of it.
  if (progress_ && status_.ok()) progress_(memory_.size(), memory_.size());
  return status_;
}

}  // namespace packrat::gpu
