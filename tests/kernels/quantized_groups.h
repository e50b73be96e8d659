// Groups of quantised values, as any file may have them.
#ifndef PACKRAT_TESTS_KERNELS_QUANTIZED_GROUPS_H_
#define PACKRAT_TESTS_KERNELS_QUANTIZED_GROUPS_H_

#include "kernels/quantized.h"
#include "tests/kernels/random.h"

namespace packrat {

inline constexpr DType kFormats[] = {DType::kInt8, DType::kInt4};

inline double Half(uint16_t bits) { return LoadAsFloat(&bits, 0, DType::kF16); }

// Any values that the format has, with scales in a range where products stay in float32's.
inline QuantGroup AnyGroup(Random* random, DType format) {
  QuantGroup group = {};
  const auto half = [&] {
    return static_cast<uint16_t>(random->Int(0, 1) << 15 | random->Int(0, 16) << 10 |
                                 random->Int(0, 1023));
  };
  group.scale = half();
  if (format == DType::kInt4) group.minimum = half();
  const bool extreme = random->Int(0, 3) == 0;
  for (int8_t& q : group.q) {
    if (format == DType::kInt8) {
      q = static_cast<int8_t>(extreme ? -128 : random->Int(-128, 127));
    } else {
      q = static_cast<int8_t>(extreme ? 15 : random->Int(0, 15));
    }
  }
  return group;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_QUANTIZED_GROUPS_H_
