// What a layer of RAT+ sees of a text, and what it keeps for it.
#ifndef PACKRAT_KERNELS_RAT_PLUS_SHAPE_H_
#define PACKRAT_KERNELS_RAT_PLUS_SHAPE_H_

#include <algorithm>
#include <cstdint>

namespace packrat {

// Each head has queries, keys and values of its own. Token t sees position s <= t if t - s <=
// window, s < sinks, or (s + 1) % dilation == 0; each position once.
struct RatPlusShape {
  int num_heads;  // H
  int head_dim;   // D, even.
  int dilation;   // 0: no position for that reason.
  int window;     // Positions before the token's own.
  int sinks;

  constexpr bool operator==(const RatPlusShape& o) const {
    return num_heads == o.num_heads && head_dim == o.head_dim && dilation == o.dilation &&
           window == o.window && sinks == o.sinks;
  }
  constexpr int width() const { return num_heads * head_dim; }
  // What is kept of the positions before `end` that have left the window: sinks, then the ends of
  // stretches of `dilation`, in order.
  constexpr int Kept(int end) const {
    if (end <= sinks) return end;
    return dilation == 0 ? sinks : sinks + end / dilation - sinks / dilation;
  }
  // Of them, those that token t sees.
  constexpr int Far(int t) const { return Kept(std::max(0, t - window)); }
  // The page of a position; -1: it has none. Kept entry number e is page e - sinks.
  constexpr int PageOf(int s) const {
    if (dilation == 0 || s < sinks || (s + 1) % dilation != 0) return -1;
    return s / dilation - sinks / dilation;
  }
  // Page p is written with token number (p + 1) * dilation + delay() of the text, when its position
  // leaves the window.
  constexpr int64_t delay() const {
    return window + (dilation == 0 ? int64_t{0} : int64_t{1} * (sinks / dilation) * dilation);
  }
};

}  // namespace packrat

#endif  // PACKRAT_KERNELS_RAT_PLUS_SHAPE_H_
