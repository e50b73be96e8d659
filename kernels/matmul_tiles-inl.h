// Products of bfloat16 by tiles (AMX): what matmul_tiles.cc compiles for the processor, and its
// test for tiles of its own. kernels/tiles-inl.h says in which order a tile adds. It is not that of
// kernels/matmul_bf16.cc, so all rows of a process, be they one or many, take this way.
#ifndef PACKRAT_KERNELS_MATMUL_TILES_INL_H_
#define PACKRAT_KERNELS_MATMUL_TILES_INL_H_

#include <cstddef>
#include <cstdint>

#include "kernels/ask_ahead.h"
#include "kernels/matmul_kernel.h"
#include "kernels/tiles-inl.h"

namespace packrat {

// Sums of a step's rows times a panel.
struct alignas(kTileBytes) StepSums {
  float rows[2 * kTileRows][PackedMatrix::kPanel];
};

// Packed rows lie block by block. A block of n is strips of kTilePairs pairs, (n, kTilePairs, 2),
// the last of what pairs are left: so that a tile is loaded from consecutive memory. What follows
// is where strip `strip` of row r of the block begins, in floats (pairs).
inline ptrdiff_t StripStart(int n, int pairs, int strip, int r) {
  const int left = pairs - strip * kTilePairs;
  return ptrdiff_t{strip} * kTilePairs * n + ptrdiff_t{r} * (left < kTilePairs ? left : kTilePairs);
}

// What is left to do of a step's sums, row by row, while the next step's rows are multiplied: the
// processor's vectors would idle else, and then its tiles. finish(row): inlined.
template <class Finish>
class Backlog {
 public:
  // `strips` of them are multiplied until the next step is done.
  Backlog(const Finish& finish, int strips) : finish_(finish), strips_(strips) {}

  void Begin(int rows) {
    next_ = 0, end_ = rows;
    each_ = (rows + strips_ - 1) / strips_;
  }
  void Some() {
    for (int i = 0; i < each_ && next_ < end_; ++i) finish_(next_++);
  }
  void All() {
    while (next_ < end_) finish_(next_++);
  }

 private:
  const Finish& finish_;
  const int strips_;
  int next_ = 0, end_ = 0, each_ = 0;
};

// sums = a step's packed rows times one panel (pairs, 32, 2). The tiles are configured for whole
// strips; after a strip of fewer pairs they are not.
template <class Tiles, bool kTwo, class Finish>
void MultiplyPanel(const float* packed, const StepRows& rows, int pairs, const std::byte* panel,
                   Ahead ahead, Backlog<Finish>* backlog, StepSums* to) {
  constexpr ptrdiff_t kPairBytes = 2 * kTileBytes;  // Of a panel.
  constexpr ptrdiff_t kStripBytes = kTilePairs * kPairBytes;
  const float *first = packed + ptrdiff_t{rows.first} * pairs,
              *second = first + ptrdiff_t{rows.sizes[0]} * pairs;
  TileSums<Tiles, kTwo> sums(rows);
  sums.Zero();
  int left = pairs;
  for (; left >= kTilePairs; left -= kTilePairs) {
    ahead.Ask();
    backlog->Some();
    sums.Add(first, second, kTileBytes, {panel, panel + kTileBytes, kPairBytes});
    first += kTilePairs * rows.sizes[0];
    second += kTilePairs * rows.sizes[1];
    panel += kStripBytes;
  }
  sums.Store(to->rows[0], PackedMatrix::kPanel);
  if (left == 0) return;
  Tiles::Configure(ConfigOf(rows, left));
  sums.Load(to->rows[0], PackedMatrix::kPanel);
  sums.Add(first, second, ptrdiff_t{4} * left, {panel, panel + kTileBytes, kPairBytes});
  sums.Store(to->rows[0], PackedMatrix::kPanel);
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
  int strips() const { return (pairs_ + kTilePairs - 1) / kTilePairs; }
  StepRows rows(int step) const {
    const int first = BlockStart(2 * step, blocks_, rows_),
              second = BlockStart(2 * step + 1, blocks_, rows_);
    const int end = 2 * step + 1 < blocks_ ? BlockStart(2 * step + 2, blocks_, rows_) : second;
    return {first, {second - first, end - second}};
  }
  // Asks for panel `next` meanwhile, if there is one.
  template <class Finish>
  void Multiply(int step, const PackedMatrix& weight, int panel, int next, Backlog<Finish>* backlog,
                StepSums* sums) {
    const StepRows rows = this->rows(step);
    if (rows.sizes[0] != configured_[0] || rows.sizes[1] != configured_[1]) {
      Tiles::Configure(ConfigOf(rows, kTilePairs));
    }
    const bool stays = pairs_ % kTilePairs == 0;
    for (const int block : {0, 1}) configured_[block] = stays ? rows.sizes[block] : -1;
    const Ahead ahead = asking_.Of(weight, panel, next, step);
    if (rows.sizes[1] > 0) {
      MultiplyPanel<Tiles, true>(packed_, rows, pairs_, weight.panel(panel), ahead, backlog, sums);
    } else {
      MultiplyPanel<Tiles, false>(packed_, rows, pairs_, weight.panel(panel), ahead, backlog, sums);
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
                           int end, float*) {
  Steps<Tiles> steps(packed, rows, (output.weight->in() + 1) / 2);
  StepSums sums[2];
  int now = 0, done_panel = 0;
  float* done_y = nullptr;
  const auto finish = [&](int r) {
    Tiles::FinishRow(sums[1 - now].rows[r], output, done_panel, done_y + r * output.y_stride);
  };
  Backlog backlog(finish, steps.strips());
  for (int panel = first; panel < end; ++panel) {
    for (int step = 0; step < steps.count(); ++step) {
      const StepRows at = steps.rows(step);
      steps.Multiply(step, *output.weight, panel, panel + 1, &backlog, &sums[now]);
      backlog.All();
      done_panel = panel;
      done_y = output.y + at.first * output.y_stride + ptrdiff_t{PackedMatrix::kPanel} * panel;
      backlog.Begin(at.size());
      now = 1 - now;
    }
  }
  backlog.All();
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
  struct {
    StepSums halves[2];
  } sums[2];
  int now = 0, done_panel = 0;
  StepRows done;
  const MatMulOutput output{&up, nullptr, 0, glu.bias};
  const auto finish = [&](int r) {
    alignas(kTileBytes) float made[2 * kPanel], h[kPanel];
    for (const int half : {0, 1}) {
      Tiles::FinishRow(sums[1 - now].halves[half].rows[r], output, done_panel + half * panels,
                       made + half * kPanel);
    }
    GluRow(*glu.gating, made, kPanel, h);
    const int block = r < done.sizes[0] ? 0 : 1, before = block * done.sizes[0];
    Tiles::Round(h, kPanel,
                 to + ptrdiff_t{done.first + before} * (width / 2) +
                     StripStart(done.sizes[block], width / 2, done_panel, r - before));
  };
  Backlog backlog(finish, 2 * steps.strips());
  for (int panel = first; panel < end; ++panel) {
    for (int step = 0; step < steps.count(); ++step) {
      for (const int half : {0, 1}) {
        const int p = panel + half * panels, next = panel + 1 < panels ? p + 1 : up.num_panels();
        steps.Multiply(step, up, p, next, &backlog, &sums[now].halves[half]);
      }
      backlog.All();
      done = steps.rows(step), done_panel = panel;
      backlog.Begin(done.size());
      now = 1 - now;
    }
  }
  backlog.All();
}

}  // namespace packrat

#endif  // PACKRAT_KERNELS_MATMUL_TILES_INL_H_
