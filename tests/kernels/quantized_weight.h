// A quantised weight as numbers, and in the tiles of a GPU.
#ifndef PACKRAT_TESTS_KERNELS_QUANTIZED_WEIGHT_H_
#define PACKRAT_TESTS_KERNELS_QUANTIZED_WEIGHT_H_

#include <cmath>
#include <vector>

#include "kernels/quant_tiles.h"
#include "tests/kernels/quantized_groups.h"

namespace packrat {

struct QuantizedWeight {
  std::vector<float> values;       // (out, in)
  std::vector<double> magnitudes;  // Of scale * q and minimum together, of each of them.
  std::vector<std::byte> tiles;
};

// Half of the groups are of normal numbers, half of anything that a file may hold, if `any`.
inline QuantizedWeight MakeQuantizedWeight(Random* random, DType format, int out, int in,
                                           bool any = true, float size = 1.0f) {
  QuantizedWeight weight;
  weight.tiles.resize(gpu::QuantTilesBytes(format, out, in));
  const size_t strip = gpu::QuantTilesBytes(format, gpu::kQuantTileOutputs, in);
  for (int o = 0; o < out; ++o) {
    for (int g = 0; g < in / kQuantGroup; ++g) {
      QuantGroup group;
      if (any && random->Int(0, 1) == 1) {
        group = AnyGroup(random, format);
      } else {
        const std::vector<float> normals = random->Normals(kQuantGroup, size);
        EXPECT_TRUE(QuantizeGroup(normals.data(), format, &group).ok());
      }
      gpu::PutInTiles(group, format, o % gpu::kQuantTileOutputs, g,
                      &weight.tiles[o / gpu::kQuantTileOutputs * strip]);
      float wide[kQuantGroup];
      WidenQuantGroup(group, format, wide);
      weight.values.insert(weight.values.end(), wide, wide + kQuantGroup);
      for (const int8_t q : group.q) {
        weight.magnitudes.push_back(std::fabs(Half(group.scale) * q) +
                                    std::fabs(Half(group.minimum)));
      }
    }
  }
  return weight;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_QUANTIZED_WEIGHT_H_
