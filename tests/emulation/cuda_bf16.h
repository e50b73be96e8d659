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
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16(x), __float2bfloat16(y)};
}
inline __nv_bfloat162 __hsub2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return {__float2bfloat16(__bfloat162float(a.x) - __bfloat162float(b.x)),
          __float2bfloat16(__bfloat162float(a.y) - __bfloat162float(b.y))};
}

namespace emulation {

// kernels/device.cuh's operation of this name: for each element, k = 0 to 15 one after the other,
// each product exact and each sum rounded to nearest. (A device adds in its own order.)
inline void MmaBf16(const unsigned (&a)[4], const unsigned (&b)[2], float (&d)[4]) {
  const auto half = [](const unsigned* words, int i) {
    return __uint_as_float(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
  };
  const int g = Lane() / 4, t = Lane() % 4;
  // What the four lanes of one's rows of a hold, then those of one's two columns of b.
  unsigned rows[4][4], columns[2][4][2];
  std::memcpy(rows, SyncWarp(Place::Here(), a, sizeof a) + g * sizeof rows, sizeof rows);
  const std::byte* slots = SyncWarp(Place::Here(), b, sizeof b);
  for (int lane = 0; lane < 8; ++lane) {
    std::memcpy(columns[lane / 4][lane % 4], slots + (t * 8 + lane) * 16, sizeof b);
  }
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 16; ++k) {
      const int lane = k / 2 % 4, upper = k / 8;
      const float x = half(&rows[lane][2 * upper + i / 2], k % 2);
      d[i] = std::fma(x, half(&columns[i % 2][lane][upper], k % 2), d[i]);
    }
  }
}

}  // namespace emulation

#endif  // PACKRAT_TESTS_EMULATION_CUDA_BF16_H_
