// How kernels reach a sequence's state.
#ifndef PACKRAT_KERNELS_PAGED_H_
#define PACKRAT_KERNELS_PAGED_H_

#include <cstddef>
#include <cstdint>

namespace packrat {

// Heads are padded to whole groups of sixteen lanes wherever they are stored; padding is zero.
constexpr int PadTo16(int n) { return (n + 15) / 16 * 16; }

inline constexpr int kMaxHeadDim = 256;  // Bounds what lies on kernels' stacks.

// The pages of one layer and one sequence: page b of the text at
// base + pages[b % ring] * page_bytes.
struct PagedState {
  std::byte* base = nullptr;  // Already at this layer's part of the pages.
  size_t page_bytes = 0;
  const int32_t* pages = nullptr;
  int32_t ring = 0;

  float* Page(int b) const {
    return reinterpret_cast<float*>(base + static_cast<size_t>(pages[b % ring]) * page_bytes);
  }
};

// The tokens of one sequence within a batch: rows [first_token, first_token + num_tokens) of every
// activation; the first of them is at `position` of its text.
struct Rows {
  int first_token = 0;
  int num_tokens = 0;
  int position = 0;
};

}  // namespace packrat

#endif  // PACKRAT_KERNELS_PAGED_H_
