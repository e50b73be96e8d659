#include "models/gpu/weights.h"

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/check.h"
#include "kernels/quant_tiles.h"
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
    if (!IsMatrix(view)) continue;
    if (view.type != TensorType::kBF16 && view.type != TensorType::kInt8 &&
        view.type != TensorType::kInt4) {
      return DType::kF32;
    }
  }
  return DType::kBF16;
}

// What is no matrix is little, and twice as much as is read has room for what is made of it.
size_t GpuWeights::planned_bytes() const {
  return matrix_bytes_ + 2 * loader_->float_bytes() + uploads_ * kAlign;
}

absl::StatusOr<std::unique_ptr<GpuWeights>> GpuWeights::Create(WeightLoader* loader, bool tied,
                                                               DType type,
                                                               const ModelOptions& options,
                                                               size_t weight_bytes,
                                                               Progress progress) {
  auto weights = std::make_unique<GpuWeights>(loader, tied, type, options);
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
  absl::Status status =
      CudaStatus(cudaStreamCreateWithFlags(&weights->stream_.stream, cudaStreamNonBlocking),
                 "making a stream");
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

std::byte* GpuWeights::Take(size_t bytes) {
  std::byte* part = memory_.data() + used_;
  used_ += Aligned(bytes);
  PACKRAT_CHECK(used_ <= memory_.size(), "more weights than the checkpoint has");
  return part;
}

std::byte* GpuWeights::NextStaging() {
  turn_ = 1 - turn_;
  Check(copied_[turn_].Wait("copying weights"));
  return staging_.data() + turn_ * kStagingBytes;
}

void GpuWeights::CopyPieces(
    size_t bytes, std::byte* to,
    absl::FunctionRef<void(size_t first, size_t n, std::byte* staging)> fill) {
  for (size_t done = 0; done < bytes && status_.ok(); done += kStagingBytes) {
    const size_t n = std::min(kStagingBytes, bytes - done);
    std::byte* staging = NextStaging();
    fill(done, n, staging);
    Check(CudaStatus(cudaMemcpyAsync(to + done, staging, n, cudaMemcpyHostToDevice, stream_),
                     "copying weights"));
    Check(copied_[turn_].Record(stream_));
  }
  done_bytes_ += bytes;
  if (progress_) progress_(std::min(done_bytes_, memory_.size()), memory_.size());
}

void GpuWeights::Copy(const uint8_t* from, DType from_type, size_t elements, DType to_type,
                      std::byte* to) {
  const size_t size = DTypeBytes(to_type);
  CopyPieces(elements * size, to, [&](size_t first, size_t bytes, std::byte* staging) {
    const size_t n = bytes / size, at = first / size;
    const uint8_t* source =
        from + (IsQuantized(from_type) ? at / kQuantGroup * StoredGroupBytes(from_type)
                                       : at * DTypeBytes(from_type));
    if (from_type == to_type) {
      std::memcpy(staging, source, bytes);
    } else if (to_type == DType::kF32) {
      WidenStored(source, from_type, n, reinterpret_cast<float*>(staging));
    } else {
      PACKRAT_CHECK(IsQuantized(from_type));
      wide_.resize(n);
      WidenStored(source, from_type, n, wide_.data());
      auto* halves = reinterpret_cast<__nv_bfloat16*>(staging);
      for (size_t i = 0; i < n; ++i) halves[i] = __float2bfloat16(wide_[i]);
    }
  });
}

Weight GpuWeights::Load(const std::vector<Rows>& parts, int in, Use use, int count) {
  const WeightFormat asked = use == Use::kProduct  ? formats_.layers
                             : use == Use::kOutput ? formats_.output
                                                   : WeightFormat::kStored;
  DType type = FormatOf(parts, in, asked, type_, loader_);
  if (!IsQuantized(type)) type = type_;
  int rows = 0;
  for (const Rows& part : parts) rows += part.rows;
  Weight weight{nullptr, type, rows / count, in};
  const size_t bytes = IsQuantized(type) ? count * QuantTilesBytes(type, weight.out, in)
                                         : static_cast<size_t>(rows) * in * DTypeBytes(type);
  matrix_bytes_ += Aligned(bytes);
  std::byte* to = nullptr;
  if (loader_->mode() == WeightLoader::Mode::kLoad && status_.ok() && loader_->status().ok()) {
    to = Take(bytes);
    weight.data = to;
  }
  if (IsQuantized(type)) {
    LoadTiles(parts, weight, rows, to);
  } else {
    LoadRows(parts, in, to);
  }
  return weight;
}

void GpuWeights::LoadRows(const std::vector<Rows>& parts, int in, std::byte* to) {
  for (const Rows& part : parts) {
    loader_->Rows(part.name, part.Shape(in), part.first, part.rows,
                  [&](const WeightLoader::Piece& piece) {
                    if (!status_.ok()) return;
                    const auto elements = static_cast<size_t>(piece.rows) * in;
                    Copy(piece.data, piece.type, elements, type_, to);
                    to += elements * DTypeBytes(type_);
                  });
  }
}

void GpuWeights::LoadTiles(const std::vector<Rows>& parts, const Weight& weight, int rows,
                           std::byte* to) {
  constexpr size_t kCopiedBytes = size_t{1} << 20;  // Strips of tiles are copied so many at a time.
  const size_t strip = QuantTilesBytes(weight.type, kQuantTileOutputs, weight.in);
  const int last_group = weight.in / kQuantGroup - 1;
  int begin = 0;
  tiles_.clear();
  for (const Rows& part : parts) {
    const auto put = [&](int row, int group, const QuantGroup& values) {
      if (!status_.ok()) return;
      // Each weight of several begins with a strip of its own.
      const int output = (begin + row) % weight.out, in_strip = output % kQuantTileOutputs;
      if (in_strip == 0 && group == 0) tiles_.resize(tiles_.size() + strip);
      PutInTiles(values, weight.type, in_strip, group, tiles_.data() + tiles_.size() - strip);
      const bool whole = in_strip == kQuantTileOutputs - 1 || output == weight.out - 1;
      if (group < last_group || !whole) return;
      if (tiles_.size() < kCopiedBytes && begin + row < rows - 1) return;
      CopyPieces(tiles_.size(), to, [&](size_t first, size_t n, std::byte* staging) {
        std::memcpy(staging, &tiles_[first], n);
      });
      to += tiles_.size();
      tiles_.clear();
    };
    loader_->Groups(part.name, part.Shape(weight.in), part.first, part.rows, weight.type, put);
    begin += part.rows;
  }
}

Weight GpuWeights::Tied(const Weight& embedding, const std::string& name) {
  if (FormatOf(embedding.type, formats_.output) == embedding.type) return embedding;
  Weight output;
  loader_->TakeAgain([&] { output = Output(name, embedding.out, embedding.in); });
  return output;
}

const float* GpuWeights::Upload(std::vector<float> values) {
  ++uploads_;
  if (values.empty() || !status_.ok()) return nullptr;
  std::byte* to = Take(values.size() * sizeof(float));
  Copy(reinterpret_cast<const uint8_t*>(values.data()), DType::kF32, values.size(), DType::kF32,
       to);
  return reinterpret_cast<const float*>(to);
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
