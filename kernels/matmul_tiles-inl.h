// Products of bfloat16 by tiles (AMX): what matmul_tiles.cc compiles for the processor and its test
// for tiles of its own, since few machines have them.
//
// TDPBF16PS adds to each float32 of a tile the products of up to 16 pairs. It adds up those of the
// even inputs and those of the odd ones apart, each by multiply-adds from zero on, then
//   acc = round(acc + round(even + odd))
// without an exception; subnormal inputs count as zeros and subnormal results become zeros, of
// their sign. So the sums differ from those of kernels/matmul_bf16.cc, and all rows of a process,
// be they one or many, take this way. Source: Intel's instruction set reference, TDPBF16PS.
#ifndef PACKRAT_KERNELS_MATMUL_TILES_INL_H_
#define PACKRAT_KERNELS_MATMUL_TILES_INL_H_

#include <cstddef>
#include <cstdint>

#include "kernels/matmul_kernel.h"

namespace packrat {

constexpr int kTileRows = 16;
constexpr int kTilePairs = 16;  // Of a row: 64 bytes.
constexpr int kTileOutputs = 16;
constexpr int kTileBytes = 64;  // Of a tile's full row.

// Registers. Those of the tail have the pairs that are left of a row.
enum TileRegister { kSum0, kSum1, kInput, kWeight0, kWeight1, kTailInput, kTailWeight };

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

// n rows of input at a time, and `tail` pairs behind whole tiles.
inline TileConfig ConfigOf(int n, int tail) {
  TileConfig config;
  for (const TileRegister sums : {kSum0, kSum1}) config.Set(sums, n, kTileOutputs);
  config.Set(kInput, n, kTilePairs);
  for (const TileRegister weights : {kWeight0, kWeight1}) {
    config.Set(weights, kTilePairs, kTileOutputs);
  }
  if (tail > 0) {
    config.Set(kTailInput, n, tail);
    config.Set(kTailWeight, tail, kTileOutputs);
  }
  return config;
}

// sums (2, n, 16) = n packed rows (n, pairs, 2) times one panel (pairs, 32, 2).
template <class Tiles>
void MultiplyPanel(const float* rows, const std::byte* panel, int pairs, const TileConfig& config,
                   float* sums) {
  constexpr ptrdiff_t kPairBytes = 2 * kTileBytes;  // Of a panel.
  const ptrdiff_t row_bytes = ptrdiff_t{4} * pairs;
  Tiles::Configure(config);  // All tiles are zero now.
  int k = 0;
  for (; k + kTilePairs <= pairs; k += kTilePairs, panel += kTilePairs * kPairBytes) {
    Tiles::template Load<kInput>(rows + k, row_bytes);
    Tiles::template Load<kWeight0>(panel, kPairBytes);
    Tiles::template MultiplyAdd<kSum0, kInput, kWeight0>();
    Tiles::template Load<kWeight1>(panel + kTileBytes, kPairBytes);
    Tiles::template MultiplyAdd<kSum1, kInput, kWeight1>();
  }
  if (k < pairs) {
    Tiles::template Load<kTailInput>(rows + k, row_bytes);
    Tiles::template Load<kTailWeight>(panel, kPairBytes);
    Tiles::template MultiplyAdd<kSum0, kTailInput, kTailWeight>();
    Tiles::template Load<kTailWeight>(panel + kTileBytes, kPairBytes);
    Tiles::template MultiplyAdd<kSum1, kTailInput, kTailWeight>();
  }
  Tiles::template Store<kSum0>(sums, kTileBytes);
  Tiles::template Store<kSum1>(sums + kTileRows * kTileOutputs, kTileBytes);
}

// MatMulKernel::multiply. packed: (rows, pairs, 2).
template <class Tiles>
void MultiplyPanelsByTiles(const float* packed, int rows, const MatMulOutput& output, int first,
                           int end) {
  const PackedMatrix& weight = *output.weight;
  const int pairs = (weight.in() + 1) / 2, blocks = NumRowBlocks(rows, kTileRows);
  alignas(kTileBytes) float sums[2 * kTileRows * kTileOutputs];
  for (int panel = first; panel < end; ++panel) {
    const int column = panel * PackedMatrix::kPanel;
    const int count =
        weight.out() - column < PackedMatrix::kPanel ? weight.out() - column : PackedMatrix::kPanel;
    for (int b = 0; b < blocks; ++b) {
      const int row = BlockStart(b, blocks, rows), n = BlockStart(b + 1, blocks, rows) - row;
      MultiplyPanel<Tiles>(packed + static_cast<ptrdiff_t>(row) * pairs, weight.panel(panel), pairs,
                           ConfigOf(n, pairs % kTilePairs), sums);
      for (int r = 0; r < n; ++r) {
        float* y = output.y + (row + r) * output.y_stride + column;
        for (int c = 0; c < count; ++c) {
          const int tile = c / kTileOutputs;
          float sum = sums[(tile * kTileRows + r) * kTileOutputs + c % kTileOutputs];
          if (output.bias != nullptr) sum += output.bias[column + c];
          sum *= output.scale;
          y[c] = output.accumulate ? sum + y[c] : sum;
        }
      }
    }
  }
  Tiles::Release();
}

}  // namespace packrat

#endif  // PACKRAT_KERNELS_MATMUL_TILES_INL_H_
