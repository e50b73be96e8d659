// bfloat16 as in the toolkit's header of this name, as far as this project uses it.
#ifndef PACKRAT_TESTS_EMULATION_CUDA_BF16_H_
#define PACKRAT_TESTS_EMULATION_CUDA_BF16_H_

#include "tests/emulation/cuda_runtime.h"

struct __nv_bfloat16 {
  uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline float __bfloat162float(__nv_bfloat16 x) {
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}
// To nearest, ties to even; a NaN becomes the canonical one.
inline __nv_bfloat16 __float2bfloat16(float x) {
  const unsigned bits = __float_as_uint(x);
  if (std::isnan(x)) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

#endif  // PACKRAT_TESTS_EMULATION_CUDA_BF16_H_
