#include "kernels/quant_tiles.h"

#include <cstdint>
#include <cstring>

namespace packrat::gpu {

void PutInTiles(const QuantGroup& group, DType format, int output, int index, std::byte* strip) {
  std::byte* tile = strip + index / 2 * QuantTileBytes(format);
  const int g = output % 8, h = output / 8, p = index % 2;
  const auto put = [&](int at, uint16_t half) { std::memcpy(tile + at, &half, 2); };
  if (format == DType::kInt8) {
    constexpr int kOrder[] = {0, 2, 1, 3};
    for (int k = 0; k < kQuantGroup; ++k) {
      const int t = k / 8, j = k % 8;
      tile[512 * h + 16 * (4 * g + t) + 8 * p + j / 4 * 4 + kOrder[j % 4]] =
          static_cast<std::byte>(group.q[k]);
    }
    put(kInt8TileScales + 8 * g + 4 * p + 2 * h, group.scale);
    return;
  }
  for (int t = 0; t < 4; ++t) {
    uint32_t word = 0;
    for (int j = 0; j < 8; ++j) {
      word |= static_cast<uint32_t>(group.q[8 * t + j]) << (16 * (j % 2) + 4 * (j / 2));
    }
    std::memcpy(tile + 16 * (4 * g + t) + 8 * h + 4 * p, &word, sizeof word);
  }
  put(kInt4TileScales + 16 * g + 4 * p + 2 * h, group.scale);
  put(kInt4TileScales + 16 * g + 4 * p + 2 * h + 8, group.minimum);
}

}  // namespace packrat::gpu
