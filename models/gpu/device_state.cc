#include "models/gpu/device_state.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/check.h"
#include "kernels/page_parts.h"
#include "models/gpu/memory.h"
#include "models/gpu/page_planes.h"
#include "models/state_layout.h"

namespace packrat::gpu {
namespace {

constexpr size_t kStagingBytes = size_t{4} << 20;

class DeviceState : public StateBuffer {
 public:
  DeviceState(DeviceMemory memory, PinnedMemory staging, cudaStream_t stream, absl::Status* error)
      : memory_(std::move(memory)), staging_(std::move(staging)), stream_(stream), error_(error) {}
  std::byte* data() const override { return memory_.data(); }
  size_t size() const override { return memory_.size(); }

  // In planes, unless the memory to move pages is not to be had.
  PageMemory PlacePages(size_t offset, size_t page_bytes, size_t part_bytes,
                        int32_t count) override {
    const PagePlanes planes = {offset, page_bytes, part_bytes, static_cast<size_t>(count)};
    CheckRange(offset, planes.count * page_bytes);
    const bool one_part = part_bytes == 0 || part_bytes == page_bytes;
    if (one_part || count == 0 || !MakeRoomFor(page_bytes)) return {data() + offset, 0};
    places_.Add(planes);
    return {data() + offset, count};
  }

  // An error of what does not wait is kept for the next step.
  void Fill(size_t offset, size_t bytes, unsigned char value) override {
    CheckRange(offset, bytes);
    const auto fill = [&](size_t at, size_t n) { cudaMemsetAsync(data() + at, value, n, stream_); };
    places_.ForEach(offset, bytes, fill, [&](const PagePlanes& planes, size_t at) {
      for (int i = 0; i < planes.parts(); ++i, at += planes.plane_bytes()) {
        fill(at, planes.part_bytes);
      }
    });
  }
  void Copy(size_t from, size_t to, size_t bytes) override {
    PACKRAT_CHECK(from <= to ? bytes <= to - from : bytes <= from - to)
        << from << " and " << to << " are less than " << bytes << " apart";
    CheckRange(from, bytes);
    CheckRange(to, bytes);
    const PagePlanes* planes = places_.Find(from);
    PACKRAT_CHECK(planes == places_.Find(to) && (planes == nullptr || bytes == planes->page_bytes),
                  "pages are copied one by one, to their own class")
        << from << " to " << to;
    if (planes == nullptr) {
      Keep(cudaMemcpyAsync(data() + to, data() + from, bytes, cudaMemcpyDeviceToDevice, stream_));
    } else {
      error_->Update(MovePage(*planes, InPlanes(*planes, planes->PlaceOf(from)),
                              InPlanes(*planes, planes->PlaceOf(to))));
    }
  }
  void Write(size_t to, const std::byte* from, size_t bytes) override {
    CheckRange(to, bytes);
    const auto write = [&](std::byte* at, size_t n) {
      Keep(cudaMemcpyAsync(at, from, n, cudaMemcpyHostToDevice, stream_));
      from += n;
    };
    const auto write_page = [&](const PagePlanes& planes, size_t at) {
      write(page_.data(), planes.page_bytes);
      error_->Update(MovePage(planes, {page_.data(), planes.part_bytes}, InPlanes(planes, at)));
    };
    places_.ForEach(
        to, bytes, [&](size_t at, size_t n) { write(data() + at, n); }, write_page);
  }
  // The device is waited for once for as many pieces as the staging memory holds.
  absl::Status Read(absl::Span<const Piece> pieces, std::byte* to) override {
    absl::Status status = *error_;
    size_t staged = 0;
    const auto flush = [&] {
      status.Update(CudaStatus(cudaStreamSynchronize(stream_), "reading state"));
      std::memcpy(to, staging_.data(), staged);
      to += std::exchange(staged, 0);
    };
    const auto read = [&](size_t from, size_t left) {
      for (size_t n = 0; left > 0 && status.ok(); from += n, left -= n, staged += n) {
        if (staged == staging_.size()) flush();
        n = std::min(left, staging_.size() - staged);
        status.Update(CudaStatus(cudaMemcpyAsync(staging_.data() + staged, data() + from, n,
                                                 cudaMemcpyDeviceToHost, stream_),
                                 "reading state"));
      }
    };
    const auto read_page = [&](const PagePlanes& planes, size_t at) {
      const bool room = staging_.size() - staged >= planes.page_bytes;
      if (!room || staged % kStateAlign != 0) flush();
      status.Update(
          MovePage(planes, InPlanes(planes, at), {staging_.data() + staged, planes.part_bytes}));
      staged += planes.page_bytes;
    };
    for (const Piece& piece : pieces) {
      CheckRange(piece.from, piece.bytes);
      places_.ForEach(piece.from, piece.bytes, read, read_page);
      if (!status.ok()) return status;
    }
    flush();
    return status;
  }

 private:
  void Keep(cudaError_t error) { error_->Update(CudaStatus(error, "moving state")); }
  void CheckRange(size_t offset, size_t bytes) const {
    PACKRAT_CHECK(offset <= size() && bytes <= size() - offset) << offset << " + " << bytes;
  }
  // A page is whole in `page_` on its way in, and in `staging_` on its way out.
  bool MakeRoomFor(size_t page_bytes) {
    if (page_.size() < page_bytes) {
      auto page = DeviceMemory::Allocate(page_bytes, "writing state");
      if (!page.ok()) return false;
      page_ = *std::move(page);
    }
    if (staging_.size() < page_bytes) {
      auto staging = PinnedMemory::Allocate(page_bytes, "reading state");
      if (!staging.ok()) return false;
      staging_ = *std::move(staging);
    }
    return true;
  }
  PageParts InPlanes(const PagePlanes& planes, size_t at) const {
    return {data() + at, planes.plane_bytes()};
  }
  absl::Status MovePage(const PagePlanes& planes, const PageParts& from, const PageParts& to) {
    return CopyPageParts(from, to, planes.part_bytes, planes.parts(), stream_);
  }

  DeviceMemory memory_;
  PinnedMemory staging_;
  DeviceMemory page_;
  PlacesInPlanes places_;
  cudaStream_t stream_;
  absl::Status* const error_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateDeviceState(size_t bytes, CudaStream stream,
                                                                 absl::Status* error) {
  auto memory = DeviceMemory::Allocate(bytes, "the state of all sequences");
  if (!memory.ok()) return memory.status();
  auto staging = PinnedMemory::Allocate(std::min(bytes, kStagingBytes), "reading state");
  if (!staging.ok()) return staging.status();
  return std::make_unique<DeviceState>(*std::move(memory), *std::move(staging), stream, error);
}

size_t DeviceStateLimit() {
  auto device = OpenDevice();
  if (!device.ok()) return 0;
  const size_t reserve = std::max(device->total_bytes / 32, size_t{256} << 20);
  return device->free_bytes - std::min(device->free_bytes, reserve);
}

}  // namespace packrat::gpu
