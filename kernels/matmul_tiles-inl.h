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

#include "kernels/ask_ahead.h"
#include "kernels/matmul_kernel.h"

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

// The rows of a step: one block or two (BlockStart()).
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

// Sums of a step's rows: by block, by half of a panel, (16, 16).
struct alignas(kTileBytes) StepSums {
  float tiles[2][2][kTileRows][kTileOutputs];
  const float* row(const StepRows& rows, int r, int half) const {
    const int block = r < rows.sizes[0] ? 0 : 1;
    return tiles[block][half][r - block * rows.sizes[0]];
  }
};

// Packed rows lie block by block. A block of n is strips of kTilePairs pairs, (n, kTilePairs, 2),
// the last of what pairs are left: so that a tile is loaded from consecutive memory. What follows
// is where strip `strip` of row r of the block begins, in floats (pairs).
inline ptrdiff_t StripStart(int n, int pairs, int strip, int r) {
  const int left = pairs - strip * kTilePairs;
  return ptrdiff_t{strip} * kTilePairs * n + ptrdiff_t{r} * (left < kTilePairs ? left : kTilePairs);
}

template <class Tiles, bool kTwo>
class PanelSums {
 public:
  static void Zero() {
    Tiles::template Zero<kSum00>();
    Tiles::template Zero<kSum01>();
    if constexpr (kTwo) {
      Tiles::template Zero<kSum10>();
      Tiles::template Zero<kSum11>();
    }
  }
  // += a strip of each block times that of a panel.
  static void Add(const float* first, const float* second, ptrdiff_t row_bytes,
                  const std::byte* panel) {
    constexpr ptrdiff_t kPairBytes = 2 * kTileBytes;  // Of a panel.
    Tiles::template Load<kInput0>(first, row_bytes);
    Tiles::template Load<kWeight0>(panel, kPairBytes);
    Tiles::template MultiplyAdd<kSum00, kInput0, kWeight0>();
    Tiles::template Load<kWeight1>(panel + kTileBytes, kPairBytes);
    Tiles::template MultiplyAdd<kSum01, kInput0, kWeight1>();
    if constexpr (kTwo) {
      Tiles::template Load<kInput1>(second, row_bytes);
      Tiles::template MultiplyAdd<kSum10, kInput1, kWeight0>();
      Tiles::template MultiplyAdd<kSum11, kInput1, kWeight1>();
    }
  }
  static void Store(StepSums* sums) {
    Tiles::template Store<kSum00>(sums->tiles[0][0][0], kTileBytes);
    Tiles::template Store<kSum01>(sums->tiles[0][1][0], kTileBytes);
    if constexpr (kTwo) {
      Tiles::template Store<kSum10>(sums->tiles[1][0][0], kTileBytes);
      Tiles::template Store<kSum11>(sums->tiles[1][1][0], kTileBytes);
    }
  }
  static void Load(const StepSums& sums) {
    Tiles::template Load<kSum00>(sums.tiles[0][0][0], kTileBytes);
    Tiles::template Load<kSum01>(sums.tiles[0][1][0], kTileBytes);
    if constexpr (kTwo) {
      Tiles::template Load<kSum10>(sums.tiles[1][0][0], kTileBytes);
      Tiles::template Load<kSum11>(sums.tiles[1][1][0], kTileBytes);
    }
  }
};

// sums = a step's packed rows times one panel (pairs, 32, 2). The tiles are configured for whole
// strips; after a strip of fewer pairs they are not.
template <class Tiles, bool kTwo>
void MultiplyPanel(const float* packed, const StepRows& rows, int pairs, const std::byte* panel,
                   Ahead ahead, StepSums* sums) {
  using Sums = PanelSums<Tiles, kTwo>;
  constexpr ptrdiff_t kStripBytes = ptrdiff_t{2} * kTilePairs * kTileBytes;
  const float *first = packed + ptrdiff_t{rows.first} * pairs,
              *second = first + ptrdiff_t{rows.sizes[0]} * pairs;
  Sums::Zero();
  int left = pairs;
  for (; left >= kTilePairs; left -= kTilePairs) {
    ahead.Ask();
    Sums::Add(first, second, kTileBytes, panel);
    first += kTilePairs * rows.sizes[0];
    second += kTilePairs * rows.sizes[1];
    panel += kStripBytes;
  }
  Sums::Store(sums);
  if (left == 0) return;
  Tiles::Configure(ConfigOf(rows, left));
  Sums::Load(*sums);
  Sums::Add(first, second, ptrdiff_t{4} * left, panel);
  Sums::Store(sums);
}

// All rows, step by step.
template <class Tiles>
class Steps {
 public:
  Steps(const float* packed, int rows, int pairs)
      : packed_(packed),
        rows_(rows),
        pairs_(pairs),
        blocks_(NumRowBlocks(rows, kTileRows)),
        asking_(kTilePairs, pairs, count(), kSoon) {}
  ~Steps() { Tiles::Release(); }

  int count() const { return (blocks_ + 1) / 2; }
  StepRows rows(int step) const {
    const int first = BlockStart(2 * step, blocks_, rows_),
              second = BlockStart(2 * step + 1, blocks_, rows_);
    const int end = 2 * step + 1 < blocks_ ? BlockStart(2 * step + 2, blocks_, rows_) : second;
    return {first, {second - first, end - second}};
  }
  // Asks for panel `next` meanwhile, if there is one.
  void Multiply(int step, const PackedMatrix& weight, int panel, int next, StepSums* sums) {
    const StepRows rows = this->rows(step);
    if (rows.sizes[0] != configured_[0] || rows.sizes[1] != configured_[1]) {
      Tiles::Configure(ConfigOf(rows, kTilePairs));
    }
    const bool stays = pairs_ % kTilePairs == 0;
    for (const int block : {0, 1}) configured_[block] = stays ? rows.sizes[block] : -1;
    const Ahead ahead = asking_.Of(weight, panel, next, step);
    if (rows.sizes[1] > 0) {
      MultiplyPanel<Tiles, true>(packed_, rows, pairs_, weight.panel(panel), ahead, sums);
    } else {
      MultiplyPanel<Tiles, false>(packed_, rows, pairs_, weight.panel(panel), ahead, sums);
    }
  }

 private:
  // Bytes. Twice of what products without tiles ask ahead: a step of one text takes 0.92 of its
  // time.
  static constexpr int kSoon = 16384;

  const float* const packed_;
  const int rows_, pairs_, blocks_;
  const Asking asking_;
  int configured_[2] = {-1, -1};  // For so many rows of whole strips; -1: for something else.
};

// MatMulKernel::multiply. packed: StripStart().
template <class Tiles>
void MultiplyPanelsByTiles(const float* packed, int rows, const MatMulOutput& output, int first,
                           int end) {
  Steps<Tiles> steps(packed, rows, (output.weight->in() + 1) / 2);
  StepSums sums;
  for (int panel = first; panel < end; ++panel) {
    for (int step = 0; step < steps.count(); ++step) {
      const StepRows at = steps.rows(step);
      steps.Multiply(step, *output.weight, panel, panel + 1, &sums);
      float* const y =
          output.y + at.first * output.y_stride + ptrdiff_t{PackedMatrix::kPanel} * panel;
      Tiles::Finish(sums, at, output, panel, y, output.y_stride);
    }
  }
}

// MatMulKernel::multiply_glu. packed, to: StripStart(); a panel of units is a strip of `to`.
template <class Tiles>
void MultiplyGluByTiles(const float* packed, int rows, const GluUp& glu, int first, int end,
                        float* to) {
  constexpr int kPanel = PackedMatrix::kPanel;
  static_assert(kPanel == 2 * kTilePairs);
  const PackedMatrix& up = *glu.weight;
  const int width = up.out() / 2, panels = width / kPanel;
  Steps<Tiles> steps(packed, rows, (up.in() + 1) / 2);
  StepSums sums;
  alignas(kTileBytes) float made[2 * kTileRows][2 * kPanel], h[kPanel];
  const MatMulOutput output{&up, nullptr, 0, glu.bias};
  for (int panel = first; panel < end; ++panel) {
    for (int step = 0; step < steps.count(); ++step) {
      const StepRows at = steps.rows(step);
      for (const int half : {0, 1}) {
        const int p = panel + half * panels, next = panel + 1 < panels ? p + 1 : up.num_panels();
        steps.Multiply(step, up, p, next, &sums);
        Tiles::Finish(sums, at, output, p, made[0] + half * kPanel, 2 * kPanel);
      }
      for (int r = 0; r < at.size(); ++r) {
        const int block = r < at.sizes[0] ? 0 : 1, before = block * at.sizes[0];
        GluRow(*glu.gating, made[r], kPanel, h);
        Tiles::Round(h, kPanel,
                     to + ptrdiff_t{at.first + before} * (width / 2) +
                         StripStart(at.sizes[block], width / 2, panel, r - before));
      }
    }
  }
}

}  // namespace packrat

#endif  // PACKRAT_KERNELS_MATMUL_TILES_INL_H_
