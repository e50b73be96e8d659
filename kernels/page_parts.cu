#include "kernels/page_parts.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/device.cuh"

namespace packrat::gpu {
namespace {

constexpr int kThreads = 256;
constexpr size_t kMaxBlocks = 64;  // For each part.

// Blocks: (groups of a part's vectors, parts). Every block takes each gridDim.x-th group.
__global__ void __launch_bounds__(kThreads)
    CopyPagePartsKernel(PageParts from, PageParts to, size_t vectors) {
  AwaitPrevious();
  const size_t part = blockIdx.y;
  const auto* source = reinterpret_cast<const uint4*>(from.base + part * from.stride);
  auto* target = reinterpret_cast<uint4*>(to.base + part * to.stride);
  const size_t step = size_t{gridDim.x} * kThreads;
  for (size_t i = size_t{blockIdx.x} * kThreads + threadIdx.x; i < vectors; i += step) {
    target[i] = source[i];
  }
}

}  // namespace

absl::Status CopyPageParts(const PageParts& from, const PageParts& to, size_t part_bytes, int parts,
                           CudaStream stream) {
  constexpr size_t kVector = sizeof(uint4);
  for (const size_t number : {reinterpret_cast<size_t>(from.base), from.stride,
                              reinterpret_cast<size_t>(to.base), to.stride, part_bytes}) {
    PACKRAT_CHECK(number % kVector == 0, "a page's parts are not whole vectors") << number;
  }
  const size_t vectors = part_bytes / kVector;
  const size_t blocks = std::min((vectors + kThreads - 1) / kThreads, kMaxBlocks);
  return Launch("CopyPageParts", CopyPagePartsKernel,
                dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(parts)), kThreads, 0,
                stream, from, to, vectors);
}

}  // namespace packrat::gpu
