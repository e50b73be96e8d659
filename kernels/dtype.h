// Types of what is stored: activations, state and weights, and the formats that only weights have
// (kernels/quantized.h).
#ifndef PACKRAT_KERNELS_DTYPE_H_
#define PACKRAT_KERNELS_DTYPE_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/check.h"

namespace packrat {

enum class DType : uint8_t { kF32, kBF16, kF16, kInt8, kInt4 };

// Whether values are stored in groups that share a scale.
constexpr bool IsQuantized(DType type) { return type == DType::kInt8 || type == DType::kInt4; }

// The size of one element. Elements of quantised types have none: they are stored in groups.
constexpr size_t DTypeBytes(DType type) {
  PACKRAT_CHECK(!IsQuantized(type), "an element of a quantised type has no size of its own");
  return type == DType::kF32 ? 4 : 2;
}

constexpr const char* DTypeName(DType type) {
  switch (type) {
    case DType::kF32:
      return "float32";
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    case DType::kInt8:
      return "int8";
    case DType::kInt4:
      break;
  }
  return "int4";
}

// Exact widening of the element `data[index]`, which is not of a quantised type.
inline float LoadAsFloat(const void* data, size_t index, DType type) {
  if (type == DType::kF32) return static_cast<const float*>(data)[index];
  const uint16_t half = static_cast<const uint16_t*>(data)[index];
  uint32_t bits;
  if (type == DType::kBF16) {
    bits = uint32_t{half} << 16;
  } else {
    PACKRAT_CHECK(type == DType::kF16);
    const uint32_t sign = uint32_t{half & 0x8000u} << 16;
    uint32_t exponent = (half >> 10) & 31u, mantissa = half & 0x3ffu;
    if (exponent == 31) {
      bits = sign | 0x7f800000u | (mantissa << 13);
    } else if (exponent != 0) {
      bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else {  // Zero or subnormal: mantissa * 2^-24 is exact in float32.
      const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
      std::memcpy(&bits, &magnitude, 4);
      bits |= sign;
    }
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

}  // namespace packrat

#endif  // PACKRAT_KERNELS_DTYPE_H_
