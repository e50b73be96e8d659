// What a product of bfloat16 asks memory for while it computes. Unless something asks ahead,
// computing and reading from memory take turns: the processor itself looks only a little ahead, and
// never beyond a page. A single block of rows asks for what it will read soon. Several blocks read
// a panel once from memory and then from the cache, so each of them asks for a part of the next
// panel.
#ifndef PACKRAT_KERNELS_ASK_AHEAD_H_
#define PACKRAT_KERNELS_ASK_AHEAD_H_

#include <cstddef>

#include "kernels/packed_matrix.h"

namespace packrat {

inline constexpr ptrdiff_t kCacheLine = 64;  // Bytes.

// So many cache lines for each strip of a panel.
struct Ahead {
  const std::byte* from;
  int lines;
  // For the second cache.
  void Ask() {
    for (int i = 0; i < lines; ++i, from += kCacheLine) __builtin_prefetch(from, 0, 2);
  }
};

class Asking {
 public:
  // Panels of `pairs` pairs are read in strips of `strip`, once for each block of rows. A single
  // block asks `soon` bytes ahead; 0: nothing is asked for.
  Asking(int strip, int pairs, int blocks, int soon)
      : blocks_(blocks),
        strips_((pairs + strip - 1) / strip),
        lines_(soon > 0 ? (strip * kPairLines + blocks - 1) / blocks : 0),
        soon_(soon) {}

  // What block b asks for while it multiplies a panel of `weight`. Several blocks ask for panel
  // `next`, if there is one: most likely this thread's too, be it of another task.
  Ahead Of(const PackedMatrix& weight, int panel, int next, int b) const {
    if (blocks_ == 1) return {weight.panel(panel) + soon_, lines_};
    return {weight.panel(next) + kCacheLine * b * strips_ * lines_,
            next < weight.num_panels() ? lines_ : 0};
  }

 private:
  static constexpr int kPairLines = 2;  // Of a panel's 32 outputs.

  const int blocks_, strips_, lines_, soon_;
};

}  // namespace packrat

#endif  // PACKRAT_KERNELS_ASK_AHEAD_H_
