// The exponential of sampling, in one source for the CPU and the GPU: the same bits on both, given
// that neither contracts a product and a sum into one rounding.
#ifndef PACKRAT_KERNELS_EXP_H_
#define PACKRAT_KERNELS_EXP_H_

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define PACKRAT_HOST_DEVICE __host__ __device__
#else
#define PACKRAT_HOST_DEVICE
#endif

namespace packrat {

// exp(x) for x <= 0 to 2e-7 relative; 0 below -87; exactly 1 at 0.
//
// By the usual reduction to [-ln2/2, ln2/2] and a polynomial (coefficients of Cephes' expf).
// Below -87 the arithmetic gives anything, and the mask at the end 0: a choice between two values
// would be a branch, which keeps the compiler from vectorizing.
PACKRAT_HOST_DEVICE inline float ExpNonPositive(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits.
  const float shifted = x * 1.44269504f + kRound;
  const float k = shifted - kRound;
  const float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * r * r + r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = (bits - 0x4B400000u + 127u) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  const float product = y * power;
  std::memcpy(&bits, &product, 4);
  bits &= -static_cast<uint32_t>(x >= -87.0f);
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

}  // namespace packrat

#endif  // PACKRAT_KERNELS_EXP_H_
