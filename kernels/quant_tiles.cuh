// Reading tiles of quantised weights (kernels/quant_tiles.h).
#ifndef PACKRAT_KERNELS_QUANT_TILES_CUH_
#define PACKRAT_KERNELS_QUANT_TILES_CUH_

#include "kernels/device.cuh"
#include "kernels/quant_tiles.h"

namespace packrat::gpu {

// Inputs k to k + 3 of an output of a weight, as float32: WidenQuantGroup() to the bit. k is a
// multiple of 4.
template <DType kFormat>
__device__ __forceinline__ float4 WidenFour(const std::byte* tiles, int in, int output, int k) {
  const std::byte* tile =
      tiles +
      (static_cast<size_t>(output / kQuantTileOutputs) * QuantTilesOf(in) + k / kQuantTileInputs) *
          QuantTileBytes(kFormat);
  const int g = output % 8, h = output / 8 % 2, p = k / kQuantGroup % 2;
  const int lane = 4 * g + k / 8 % 4;
  const auto half = [&](int at) {
    return HalfToFloat(*reinterpret_cast<const uint16_t*>(tile + at));
  };
  const auto word = [&](int at) { return *reinterpret_cast<const unsigned*>(tile + at); };
  if constexpr (kFormat == DType::kInt8) {
    const unsigned q = word(512 * h + 16 * lane + 8 * p + k % 8);
    const float scale = half(kInt8TileScales + 8 * g + 4 * p + 2 * h);
    const auto at = [&](int bit) {
      return scale * static_cast<float>(static_cast<int8_t>(q >> bit));
    };
    return make_float4(at(0), at(16), at(8), at(24));
  } else {
    const unsigned q = word(16 * lane + 8 * h + 4 * p) >> k % 8 * 2;
    const float scale = half(kInt4TileScales + 16 * g + 4 * p + 2 * h);
    const float minimum = half(kInt4TileScales + 16 * g + 4 * p + 2 * h + 8);
    const auto at = [&](int bit) { return scale * static_cast<float>(q >> bit & 15) + minimum; };
    return make_float4(at(0), at(16), at(4), at(20));
  }
}

// One group of 16 outputs as a lane with g = lane / 4 and t = lane % 4 multiplies by it: q, exact
// in bfloat16, of its inputs 8 t to 8 t + 7 for outputs g and g + 8, and both scales and minima.
struct QuantPart {
  uint4 low, high;
  float scale[2], minimum[2];
};

// Two values, in the lower halves' and the upper halves' lowest bits, as a pair of bfloat16: they
// become the lowest bits of 128, whose last bit is worth 1.
constexpr unsigned kPairOf128 = 0x43004300u;
__device__ __forceinline__ unsigned Int4Pair(unsigned q) {
  return SubtractPairs((q & 0x000f000fu) | kPairOf128, kPairOf128);
}
// The sign makes 256 of the 128 that is taken off.
__device__ __forceinline__ unsigned Int8Pair(unsigned q) {
  return SubtractPairs((q & 0x007f007fu) | kPairOf128, (q & 0x00800080u) | kPairOf128);
}

// Reads 16 or 8 bytes; unless `inside` there is nothing to read, and they are zero.
struct LoadIf {
  bool inside;
  __device__ __forceinline__ void operator()(const std::byte* p, uint4* to) const {
    *to = LoadIf16(p, inside);
  }
  __device__ __forceinline__ void operator()(const std::byte* p, uint2* to) const {
    *to = LoadIf8(p, inside);
  }
};

// What a lane holds of a tile.
template <DType kFormat>
struct QuantTile;

template <>
struct QuantTile<DType::kInt8> {
  static constexpr bool kHasMinimum = false;
  uint4 values[2];
  uint2 scales;

  __device__ __forceinline__ void Read(const std::byte* tile, LoadIf load) {
    load(tile + 16 * Lane(), &values[0]);
    load(tile + 512 + 16 * Lane(), &values[1]);
    load(tile + kInt8TileScales + Lane() / 4 * 8, &scales);
  }
  __device__ __forceinline__ QuantPart part(int p) const {
    const auto half = [&](const uint4& v) {
      return p == 0 ? make_uint2(v.x, v.y) : make_uint2(v.z, v.w);
    };
    return Widen(half(values[0]), half(values[1]), p == 0 ? scales.x : scales.y);
  }
  // The same without the rest of the tile.
  static __device__ __forceinline__ QuantPart ReadPart(const std::byte* tile, int p) {
    const auto half = [&](int at) {
      return *reinterpret_cast<const uint2*>(tile + at + 16 * Lane() + 8 * p);
    };
    const auto* scales = reinterpret_cast<const unsigned*>(tile + kInt8TileScales);
    return Widen(half(0), half(512), scales[Lane() / 4 * 2 + p]);
  }

 private:
  static __device__ __forceinline__ QuantPart Widen(uint2 low, uint2 high, unsigned scale) {
    const auto eight = [](uint2 q) {
      return make_uint4(Int8Pair(q.x), Int8Pair(q.x >> 8), Int8Pair(q.y), Int8Pair(q.y >> 8));
    };
    return {eight(low), eight(high), {HalfToFloat(scale), HalfToFloat(scale >> 16)}, {0.0f, 0.0f}};
  }
};

template <>
struct QuantTile<DType::kInt4> {
  static constexpr bool kHasMinimum = true;
  uint4 values, scales;

  __device__ __forceinline__ void Read(const std::byte* tile, LoadIf load) {
    load(tile + 16 * Lane(), &values);
    load(tile + kInt4TileScales + Lane() / 4 * 16, &scales);
  }
  __device__ __forceinline__ QuantPart part(int p) const {
    return p == 0 ? Widen(values.x, values.z, scales.x, scales.z)
                  : Widen(values.y, values.w, scales.y, scales.w);
  }
  // The same without the rest of the tile.
  static __device__ __forceinline__ QuantPart ReadPart(const std::byte* tile, int p) {
    const auto* q = reinterpret_cast<const unsigned*>(tile) + Lane() * 4 + p;
    const auto* scales =
        reinterpret_cast<const unsigned*>(tile + kInt4TileScales) + Lane() / 4 * 4 + p;
    return Widen(q[0], q[2], scales[0], scales[2]);
  }

 private:
  static __device__ __forceinline__ QuantPart Widen(unsigned low, unsigned high, unsigned scale,
                                                    unsigned minimum) {
    const auto eight = [](unsigned q) {
      return make_uint4(Int4Pair(q), Int4Pair(q >> 4), Int4Pair(q >> 8), Int4Pair(q >> 12));
    };
    return {eight(low),
            eight(high),
            {HalfToFloat(scale), HalfToFloat(scale >> 16)},
            {HalfToFloat(minimum), HalfToFloat(minimum >> 16)}};
  }
};

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_QUANT_TILES_CUH_
