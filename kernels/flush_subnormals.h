// Arithmetic without subnormal numbers (below 2^-126).
#ifndef PACKRAT_KERNELS_FLUSH_SUBNORMALS_H_
#define PACKRAT_KERNELS_FLUSH_SUBNORMALS_H_

#include <xmmintrin.h>

namespace packrat {

// While it lives, its thread's vector instructions take subnormal numbers for zeros and make zeros
// of them, as tiles and dot products of bfloat16 always do. A state that decays is full of them,
// and each costs Intel's processors an exception of some 150 cycles: with them a prompt of
// Falcon-H1 or Qwen3.5 takes 1.2 times as long.
class FlushSubnormals {
 public:
  FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kResults | kOperands); }
  ~FlushSubnormals() { _mm_setcsr(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  static constexpr unsigned kResults = 0x8000, kOperands = 0x40;  // MXCSR.FTZ and .DAZ.
  const unsigned before_;
};

}  // namespace packrat

#endif  // PACKRAT_KERNELS_FLUSH_SUBNORMALS_H_
