// The processor's tiles (AMX-BF16): what products by tiles and attention share. Whatever takes them
// as a parameter has a test with tiles of its own, since few machines have them.
//
// TDPBF16PS adds to each float32 of a tile the products of up to 16 pairs. It adds up those of the
// even inputs and those of the odd ones apart, each by multiply-adds from zero on, then
//   acc = round(acc + round(even + odd))
// without an exception; subnormal inputs count as zeros and subnormal results become zeros, of
// their sign. Source: Intel's instruction set reference, TDPBF16PS.
#ifndef PACKRAT_KERNELS_TILES_INL_H_
#define PACKRAT_KERNELS_TILES_INL_H_

#include <cstddef>
#include <cstdint>

namespace packrat {

constexpr int kTileRows = 16;
constexpr int kTilePairs = 16;  // Of a row: 64 bytes.
constexpr int kTileOutputs = 16;
constexpr int kTileBytes = 64;  // Of a tile's full row.

// Registers: sums of two tiles of rows by two of outputs, since each that is loaded is then
// multiplied twice.
enum TileRegister { kSum00, kSum01, kSum10, kSum11, kInput0, kInput1, kWeight0, kWeight1 };

// What LDTILECFG reads.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void Set(TileRegister tile, int tile_rows, int pairs) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(4 * pairs);
  }
};

// The compiler's intrinsics take the number of a tile as a literal alone, hence the instructions.
struct ProcessorTiles {
  static void Configure(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
  template <TileRegister kTile>
  static void Load(const void* from, ptrdiff_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <TileRegister kSums, TileRegister kInputs, TileRegister kWeights>
  static void MultiplyAdd() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0"
                 :
                 : "i"(kSums), "i"(kInputs), "i"(kWeights));
  }
  template <TileRegister kTile>
  static void Store(float* to, ptrdiff_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  template <TileRegister kTile>
  static void Zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  static void Release() { asm volatile("tilerelease"); }
};

// The rows that are multiplied together: one block or two, of at most kTileRows.
struct StepRows {
  int first, sizes[2];
  int size() const { return sizes[0] + sizes[1]; }
};

// So many pairs of each row at a time.
inline TileConfig ConfigOf(const StepRows& rows, int pairs) {
  TileConfig config;
  for (const TileRegister sums : {kSum00, kSum01}) config.Set(sums, rows.sizes[0], kTileOutputs);
  config.Set(kInput0, rows.sizes[0], pairs);
  if (rows.sizes[1] > 0) {
    for (const TileRegister sums : {kSum10, kSum11}) config.Set(sums, rows.sizes[1], kTileOutputs);
    config.Set(kInput1, rows.sizes[1], pairs);
  }
  for (const TileRegister weights : {kWeight0, kWeight1}) config.Set(weights, pairs, kTileOutputs);
  return config;
}

// Two tiles of weights, (pairs, 16, 2) each, and the bytes from pair to pair.
struct TileWeights {
  const std::byte *left, *right;
  ptrdiff_t pair_bytes;
};

// Sums of a step's rows, 32 outputs of each, in the tiles.
template <class Tiles, bool kTwo>
class TileSums {
 public:
  explicit TileSums(const StepRows& rows) : second_(rows.sizes[0]) {}

  void Zero() {
    Tiles::template Zero<kSum00>();
    Tiles::template Zero<kSum01>();
    if constexpr (kTwo) {
      Tiles::template Zero<kSum10>();
      Tiles::template Zero<kSum11>();
    }
  }
  // += so many pairs as are configured of each block of rows times those of the weights.
  void Add(const float* first, const float* second, ptrdiff_t row_bytes,
           const TileWeights& weights) {
    Tiles::template Load<kInput0>(first, row_bytes);
    Tiles::template Load<kWeight0>(weights.left, weights.pair_bytes);
    Tiles::template MultiplyAdd<kSum00, kInput0, kWeight0>();
    Tiles::template Load<kWeight1>(weights.right, weights.pair_bytes);
    Tiles::template MultiplyAdd<kSum01, kInput0, kWeight1>();
    if constexpr (kTwo) {
      Tiles::template Load<kInput1>(second, row_bytes);
      Tiles::template MultiplyAdd<kSum10, kInput1, kWeight0>();
      Tiles::template MultiplyAdd<kSum11, kInput1, kWeight1>();
    }
  }
  // (rows, 32), `stride` floats from row to row.
  void Store(float* to, ptrdiff_t stride) const {
    Tiles::template Store<kSum00>(to, 4 * stride);
    Tiles::template Store<kSum01>(to + kTileOutputs, 4 * stride);
    if constexpr (kTwo) {
      Tiles::template Store<kSum10>(to + second_ * stride, 4 * stride);
      Tiles::template Store<kSum11>(to + second_ * stride + kTileOutputs, 4 * stride);
    }
  }
  void Load(const float* from, ptrdiff_t stride) {
    Tiles::template Load<kSum00>(from, 4 * stride);
    Tiles::template Load<kSum01>(from + kTileOutputs, 4 * stride);
    if constexpr (kTwo) {
      Tiles::template Load<kSum10>(from + second_ * stride, 4 * stride);
      Tiles::template Load<kSum11>(from + second_ * stride + kTileOutputs, 4 * stride);
    }
  }

 private:
  const ptrdiff_t second_;  // The first row of the second block.
};

// Rows in their places rather than packed: x (rows, pairs, 2), y (rows, 32), in floats from row to
// row. `strip` pairs, as many as are configured, at a time; they divide `pairs`.
struct TileProduct {
  StepRows rows;
  const float* x;
  ptrdiff_t x_stride;
  int pairs, strip;
  float* y;
  ptrdiff_t y_stride;
};

template <class Tiles, bool kTwo>
void MultiplyInPlace(const TileProduct& p, TileWeights weights, bool accumulate) {
  TileSums<Tiles, kTwo> sums(p.rows);
  if (accumulate) {
    sums.Load(p.y, p.y_stride);
  } else {
    sums.Zero();
  }
  const float* second = p.x + p.rows.sizes[0] * p.x_stride;
  for (int k = 0; k < p.pairs; k += p.strip) {
    sums.Add(p.x + k, second + k, 4 * p.x_stride, weights);
    weights.left += p.strip * weights.pair_bytes;
    weights.right += p.strip * weights.pair_bytes;
  }
  sums.Store(p.y, p.y_stride);
}

// y = x times the weights, or += that.
template <class Tiles>
void MultiplyInPlace(const TileProduct& product, const TileWeights& weights, bool accumulate) {
  if (product.rows.sizes[1] > 0) {
    MultiplyInPlace<Tiles, true>(product, weights, accumulate);
  } else {
    MultiplyInPlace<Tiles, false>(product, weights, accumulate);
  }
}

}  // namespace packrat

#endif  // PACKRAT_KERNELS_TILES_INL_H_
