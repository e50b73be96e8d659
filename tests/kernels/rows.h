// What the tests of operations on rows share.
#ifndef PACKRAT_TESTS_KERNELS_ROWS_H_
#define PACKRAT_TESTS_KERNELS_ROWS_H_

#include <vector>

#include "tests/kernels/device.h"

namespace packrat {

inline constexpr double kTiny = 0x1p-126;  // Below it a float32 has no relative precision.

template <class T>
class RowsTest : public KernelTest {
 protected:
  using S = Stored<T>;
  // What is left of the values in this type.
  static std::vector<float> Rounded(const std::vector<float>& values) {
    return S::Floats(S::From(values));
  }
};
struct Sizes {
  int rows, n;
};

// Whole groups of eight, odd rows, more than one part of a row; on the CPU also rows enough for the
// threads to share them.
inline std::vector<Sizes> SomeSizes() {
  std::vector<Sizes> sizes = {{3, 1}, {3, 7}, {3, 32}, {3, 384}, {3, 1003}, {3, 2056}, {3, 4099}};
  if (!kOnCpu) return sizes;
  sizes.insert(sizes.end(), {{1, 16}, {3, 17}, {70, 301}, {5, 4099}});
  Random random(7);
  for (int i = 0; i < 20; ++i) sizes.push_back({random.Int(1, 40), random.Int(1, 100)});
  return sizes;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_ROWS_H_
