// Quantised weights (kernels/quantized.h) as a GPU keeps them: tiles of 16 outputs and 64 inputs,
// which are two groups. What a warp needs of a tile, for a product on tensor cores, lies side by
// side in the order of its lanes. A weight (out, in) is (ceil(out / 16), ceil(in / 64)) tiles, with
// zeros beyond its ends; 8.5 or 5 bits a weight, as in a file.
//
// Of output 8 h + g and input 32 p + 8 t + j of a tile, with g and j below 8 and t below 4:
//   int8  the value is byte 512 h + 16 (4 g + t) + 8 p + J, signed, where J is j with each four of
//         them in the order 0, 2, 1, 3; the scale is the float16 at byte 1024 + 8 g + 4 p + 2 h
//   int4  the value is in the word at byte 16 (4 g + t) + 8 h + 4 p, from its bit
//         16 (j % 2) + 4 (j / 2) on; the scale is at byte 512 + 16 g + 4 p + 2 h, and the minimum 8
//         bytes later
#ifndef PACKRAT_KERNELS_QUANT_TILES_H_
#define PACKRAT_KERNELS_QUANT_TILES_H_

#include <cstddef>

#include "kernels/dtype.h"
#include "kernels/quantized.h"

namespace packrat::gpu {

inline constexpr int kQuantTileOutputs = 16, kQuantTileInputs = 2 * kQuantGroup;
inline constexpr int kInt8TileScales = 1024, kInt4TileScales = 512;  // Where they begin.
constexpr size_t QuantTileBytes(DType format) {
  return format == DType::kInt8 ? kInt8TileScales + 64 : kInt4TileScales + 128;
}
// Tiles side by side along the inputs.
constexpr int QuantTilesOf(int in) { return (in + kQuantTileInputs - 1) / kQuantTileInputs; }
// Of a weight.
constexpr size_t QuantTilesBytes(DType format, int out, int in) {
  const int strips = (out + kQuantTileOutputs - 1) / kQuantTileOutputs;
  return static_cast<size_t>(strips) * QuantTilesOf(in) * QuantTileBytes(format);
}

// Inputs [32 * index, 32 * index + 32) of an output below 16 into the strip of tiles that has it.
// The strip was zero before.
void PutInTiles(const QuantGroup& group, DType format, int output, int index, std::byte* strip);

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_QUANT_TILES_H_
