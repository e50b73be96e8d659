// Products in the processor's own dot products of pairs of bfloat16 (AVX512-BF16). Highway 1.0.3
// has no such target, hence intrinsics.
//
// VDPBF16PS adds one pair of products to each float32 lane, in this order and without an exception:
//   t   = round(acc + x[2 k + 1] w[2 k + 1])
//   acc = round(t + x[2 k] w[2 k])
// Products are exact, each sum rounds to nearest even; subnormal inputs count as zeros and
// subnormal results become zeros, of their sign. The tests hold it against that.
#include <algorithm>

#include "hwy/base.h"
#include "kernels/elementwise.h"
#include "kernels/matmul_kernel.h"
#include "kernels/transpose16.h"
// Keep before the attributes.
#include <immintrin.h>

namespace packrat {
namespace {

constexpr int kPanel = PackedMatrix::kPanel;
constexpr int kLanes = 16;  // float32 in a register, or pairs of bfloat16.
constexpr int kVecs = kPanel / kLanes;
// Accumulators of a block's rows, the weights of one pair and a broadcast fill 27 of 32 registers.
constexpr int kMaxRows = 12;
constexpr ptrdiff_t kLine = 64;    // Bytes: a cache line, and a register.
constexpr ptrdiff_t kSoon = 8192;  // How far ahead to ask, in bytes: some hundred nanoseconds.

int Pairs(int in) { return (in + 1) / 2; }

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

__mmask16 FirstLanes(int n) { return static_cast<__mmask16>(n >= kLanes ? 0xffff : (1 << n) - 1); }

// Sixteen pairs of x from element k on, zeros beyond `in`.
__m512i RoundPairs(const float* x, int k, int in) {
  const __m512 low = _mm512_maskz_loadu_ps(FirstLanes(std::max(in - k, 0)), x + k);
  const __m512 high =
      _mm512_maskz_loadu_ps(FirstLanes(std::max(in - k - kLanes, 0)), x + k + kLanes);
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

void RoundRow(const float* x, int in, float* packed) {
  const int pairs = Pairs(in);
  for (int k = 0; k < pairs; k += kLanes) {
    _mm512_mask_storeu_epi32(packed + k, FirstLanes(pairs - k), RoundPairs(x, 2 * k, in));
  }
}

// x (n, in) to (pairs, n, 2): a tile then reads its rows as one stream.
void Pack(const float* x, ptrdiff_t stride, int n, int in, float* packed) {
  if (n == 1) return RoundRow(x, in, packed);
  const int pairs = Pairs(in);
  for (int k = 0; k < pairs; k += kLanes) {
    const int count = std::min(kLanes, pairs - k);
    __m512i rows[16];
    for (int r = 0; r < 16; ++r) {
      rows[r] = r < n ? RoundPairs(x + r * stride, 2 * k, in) : _mm512_setzero_si512();
    }
    Transpose16(rows);
    for (int i = 0; i < count; ++i) {
      _mm512_mask_storeu_epi32(packed + static_cast<ptrdiff_t>(k + i) * n, FirstLanes(n), rows[i]);
    }
  }
}

// What a tile asks memory for while it computes: this many cache lines for every kStrip pairs.
constexpr int kStrip = 8;
struct Ahead {
  const std::byte* from;
  int lines;
};

// kRows rows times one panel, to y, where the output's stride leads from row to row. x: (pairs,
// kRows, 2).
template <int kRows>
void Tile(const float* x, const MatMulOutput& output, int panel, Ahead ahead, float* to) {
  const PackedMatrix& weight = *output.weight;
  const int pairs = Pairs(weight.in());
  const std::byte* w = weight.panel(panel);
  __m512 acc[kRows][kVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < kVecs; ++c) acc[r][c] = _mm512_setzero_ps();
  }
  for (int k = 0; k < pairs;) {
    const int end = std::min(k + kStrip, pairs);
    for (int i = 0; i < ahead.lines; ++i, ahead.from += kLine) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead.from), _MM_HINT_T1);
    }
    for (; k < end; ++k, x += kRows, w += kVecs * kLine) {
      __m512bh weights[kVecs];
#pragma GCC unroll 16
      for (int c = 0; c < kVecs; ++c) {
        weights[c] = reinterpret_cast<__m512bh>(_mm512_load_si512(w + c * kLine));
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const auto pair = reinterpret_cast<__m512bh>(_mm512_set1_ps(x[r]));
#pragma GCC unroll 16
        for (int c = 0; c < kVecs; ++c) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], pair, weights[c]);
      }
    }
  }
#pragma GCC unroll 16
  for (int c = 0; c < kVecs; ++c) {
    const int first = panel * kPanel + c * kLanes;
    const __mmask16 lanes = FirstLanes(std::max(weight.out() - first, 0));
    float* y = to + c * kLanes;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r, y += output.y_stride) {
      __m512 sum = acc[r][c];
      if (output.bias != nullptr) {
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, output.bias + first));
      }
      sum = _mm512_mul_ps(sum, _mm512_set1_ps(output.scale));
      if (output.accumulate) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, y));
      _mm512_mask_storeu_ps(y, lanes, sum);
    }
  }
}

HWY_POP_ATTRIBUTES

constexpr void (*kTiles[])(const float*, const MatMulOutput&, int, Ahead, float*) = {
    Tile<1>, Tile<2>, Tile<3>, Tile<4>,  Tile<5>,  Tile<6>,
    Tile<7>, Tile<8>, Tile<9>, Tile<10>, Tile<11>, Tile<12>};

// Unless something asks ahead, computing and reading from memory take turns: the processor itself
// looks only a few strips ahead. A single block of rows asks for what it will read soon. Several
// blocks read a panel once from memory and then from the cache, so each of them asks for a part of
// the next panel. That saves a fifth of the time of 16 rows and a tenth of that of 8. One or two
// rows compute so little that asking costs as much as it saves.
class Asking {
 public:
  Asking(int rows, int pairs, int blocks)
      : blocks_(blocks),
        strips_((pairs + kStrip - 1) / kStrip),
        lines_(rows < 3 ? 0 : (kStrip * kVecs + blocks - 1) / blocks) {}
  // What block b asks for while it multiplies a panel of `weight`, after which comes another, or
  // not. That is most likely this thread's too, be it a task of its own.
  Ahead Of(const PackedMatrix& weight, int panel, bool another, int b) const {
    if (blocks_ == 1) return {weight.panel(panel) + kSoon, lines_};
    return {weight.panel(panel + 1) + ptrdiff_t{kLine} * b * strips_ * lines_,
            another ? lines_ : 0};
  }

 private:
  const int blocks_, strips_, lines_;
};

void MultiplyPanels(const float* packed, int rows, const MatMulOutput& output, int first, int end) {
  const PackedMatrix& weight = *output.weight;
  const int blocks = NumRowBlocks(rows, kMaxRows), pairs = Pairs(weight.in());
  const Asking asking(rows, pairs, blocks);
  for (int panel = first; panel < end; ++panel) {
    for (int b = 0; b < blocks; ++b) {
      const int row = BlockStart(b, blocks, rows), n = BlockStart(b + 1, blocks, rows) - row;
      kTiles[n - 1](packed + static_cast<ptrdiff_t>(row) * pairs, output, panel,
                    asking.Of(weight, panel, panel + 1 < weight.num_panels(), b),
                    output.y + row * output.y_stride + ptrdiff_t{kPanel} * panel);
    }
  }
}

void MultiplyGlu(const float* packed, int rows, const GluUp& glu, int first, int end, float* to) {
  const PackedMatrix& up = *glu.weight;
  const int blocks = NumRowBlocks(rows, kMaxRows), pairs = Pairs(up.in()), width = up.out() / 2;
  const int panels = width / kPanel;
  const Asking asking(rows, pairs, blocks);
  alignas(kLine) float made[kMaxRows * 2 * kPanel], h[kMaxRows * kPanel];
  const MatMulOutput output{&up, made, 2 * kPanel, glu.bias};
  for (int panel = first; panel < end; ++panel) {
    for (int b = 0; b < blocks; ++b) {
      const int row = BlockStart(b, blocks, rows), n = BlockStart(b + 1, blocks, rows) - row;
      for (const int half : {0, 1}) {
        const int p = panel + half * panels;
        kTiles[n - 1](packed + static_cast<ptrdiff_t>(row) * pairs, output, p,
                      asking.Of(up, p, panel + 1 < panels, b), made + half * kPanel);
      }
      for (int r = 0; r < n; ++r) {
        GluRow(*glu.gating, made + r * 2 * kPanel, kPanel, h + r * kPanel);
      }
      Pack(h, kPanel, n, kPanel,
           to + ptrdiff_t{row} * Pairs(width) + ptrdiff_t{panel} * Pairs(kPanel) * n);
    }
  }
}

}  // namespace

void RoundToPairs(const float* x, int in, float* packed) { RoundRow(x, in, packed); }

MatMulKernel BFloat16Kernel() { return {kMaxRows, Pairs, Pack, MultiplyPanels, MultiplyGlu}; }

}  // namespace packrat
