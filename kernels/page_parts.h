// Moves a page between memory in which it is whole and a pool in planes (models/batch.h), where
// each layer's part lies among that layer's parts of other pages. One launch for all layers: as
// many small copies would take longer to queue than to run.
#ifndef PACKRAT_KERNELS_PAGE_PARTS_H_
#define PACKRAT_KERNELS_PAGE_PARTS_H_

#include <cstddef>

#include "kernels/gpu.h"

namespace packrat::gpu {

// Parts of one page, in memory of the device or pinned memory: part i begins at base + i * stride.
struct PageParts {
  std::byte* base = nullptr;
  size_t stride = 0;  // Bytes.
};

// Copies `parts` parts of `part_bytes` each. Bases, strides and part_bytes are multiples of 16; the
// two do not overlap.
absl::Status CopyPageParts(const PageParts& from, const PageParts& to, size_t part_bytes, int parts,
                           CudaStream stream);

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_PAGE_PARTS_H_
