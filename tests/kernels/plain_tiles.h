// Tiles in memory, computed as Intel's reference states them (kernels/tiles-inl.h).
#ifndef PACKRAT_TESTS_KERNELS_PLAIN_TILES_H_
#define PACKRAT_TESTS_KERNELS_PLAIN_TILES_H_

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>

#include "kernels/tiles-inl.h"

namespace packrat {

inline float Flushed(float x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x;
}
inline float Add(float a, float b) { return Flushed(Flushed(a) + Flushed(b)); }
inline float MultiplyAdd(float x, float w, float sum) {
  return Flushed(std::fma(Flushed(x), Flushed(w), sum));
}
inline float Value(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// Whatever the configuration does not allow ends the test.
class PlainTiles {
 public:
  static void Configure(const TileConfig& config) {
    ASSERT_EQ(config.palette, 1);
    config_ = config;
    for (auto& tile : tiles_) tile.fill(0);
  }
  template <TileRegister kTile>
  static void Zero() {
    ASSERT_GT(config_.rows[kTile], 0) << kTile;
    tiles_[kTile].fill(0);
  }
  template <TileRegister kTile>
  static void Load(const void* from, ptrdiff_t stride) {
    ASSERT_GT(config_.rows[kTile], 0) << kTile;
    tiles_[kTile].fill(0);
    for (int r = 0; r < config_.rows[kTile]; ++r) {
      std::memcpy(&tiles_[kTile][r * kTileBytes], static_cast<const char*>(from) + r * stride,
                  config_.row_bytes[kTile]);
    }
  }
  template <TileRegister kSums, TileRegister kInputs, TileRegister kWeights>
  static void MultiplyAdd() {
    const int rows = config_.rows[kSums], pairs = config_.row_bytes[kInputs] / 4;
    ASSERT_EQ(config_.rows[kInputs], rows);
    ASSERT_EQ(config_.rows[kWeights], pairs);
    ASSERT_EQ(config_.row_bytes[kSums], config_.row_bytes[kWeights]);
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < config_.row_bytes[kSums] / 4; ++c) {
        float parts[2] = {0, 0};
        for (int k = 0; k < pairs; ++k) {
          for (int i = 0; i < 2; ++i) {
            parts[i] = packrat::MultiplyAdd(At<uint16_t>(kInputs, r, 2 * k + i),
                                            At<uint16_t>(kWeights, k, 2 * c + i), parts[i]);
          }
        }
        float sum;
        char* const place = &tiles_[kSums][r * kTileBytes + 4 * c];
        std::memcpy(&sum, place, 4);
        sum = Add(sum, Add(parts[0], parts[1]));
        std::memcpy(place, &sum, 4);
      }
    }
  }
  template <TileRegister kTile>
  static void Store(float* to, ptrdiff_t stride) {
    for (int r = 0; r < config_.rows[kTile]; ++r) {
      std::memcpy(reinterpret_cast<char*>(to) + r * stride, &tiles_[kTile][r * kTileBytes],
                  config_.row_bytes[kTile]);
    }
  }
  static void Release() { config_ = TileConfig(); }

 private:
  template <class T>
  static float At(int tile, int row, int column) {
    T bits;
    std::memcpy(&bits, &tiles_[tile][row * kTileBytes + column * sizeof(T)], sizeof bits);
    return Value(bits);
  }

  inline static TileConfig config_;
  inline static std::array<std::array<char, kTileRows * kTileBytes>, 8> tiles_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_PLAIN_TILES_H_
