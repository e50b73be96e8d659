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
#include "kernels/ask_ahead.h"
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
constexpr ptrdiff_t kLine = 64;  // Bytes: a cache line, and a register.

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

// Sixteen pairs at a time, `stride` floats from the first of one to that of the next.
void RoundRow(const float* x, int in, ptrdiff_t stride, float* packed) {
  const int pairs = Pairs(in);
  for (int k = 0; k < pairs; k += kLanes, packed += stride) {
    _mm512_mask_storeu_epi32(packed, FirstLanes(pairs - k), RoundPairs(x, 2 * k, in));
  }
}

// x (n, in) to (pairs, n, 2): a tile then reads its rows as one stream.
void Pack(const float* x, ptrdiff_t stride, int n, int in, float* packed) {
  if (n == 1) return RoundRow(x, in, kLanes, packed);
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

constexpr int kStrip = 8;  // Pairs that are multiplied before memory is asked again.

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
    ahead.Ask();
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

// Asking saves a fifth of the time of 16 rows and a tenth of that of 8. One or two rows compute so
// little that it costs as much as it saves.
Asking AskingOf(int rows, int pairs, int blocks) {
  constexpr int kSoon = 8192;  // Bytes: some hundred nanoseconds.
  return {kStrip, pairs, blocks, rows < 3 ? 0 : kSoon};
}

void MultiplyPanels(const float* packed, int rows, const MatMulOutput& output, int first, int end,
                    float*) {
  const PackedMatrix& weight = *output.weight;
  const int blocks = NumRowBlocks(rows, kMaxRows), pairs = Pairs(weight.in());
  const Asking asking = AskingOf(rows, pairs, blocks);
  for (int panel = first; panel < end; ++panel) {
    for (int b = 0; b < blocks; ++b) {
      const int row = BlockStart(b, blocks, rows), n = BlockStart(b + 1, blocks, rows) - row;
      kTiles[n - 1](packed + static_cast<ptrdiff_t>(row) * pairs, output, panel,
                    asking.Of(weight, panel, panel + 1, b),
                    output.y + row * output.y_stride + ptrdiff_t{kPanel} * panel);
    }
  }
}

void MultiplyGlu(const float* packed, int rows, const GluUp& glu, int first, int end, float* to) {
  const PackedMatrix& up = *glu.weight;
  const int blocks = NumRowBlocks(rows, kMaxRows), pairs = Pairs(up.in()), width = up.out() / 2;
  const int panels = width / kPanel;
  const Asking asking = AskingOf(rows, pairs, blocks);
  alignas(kLine) float made[kMaxRows * 2 * kPanel], h[kMaxRows * kPanel];
  const MatMulOutput output{&up, made, 2 * kPanel, glu.bias};
  for (int panel = first; panel < end; ++panel) {
    for (int b = 0; b < blocks; ++b) {
      const int row = BlockStart(b, blocks, rows), n = BlockStart(b + 1, blocks, rows) - row;
      for (const int half : {0, 1}) {
        const int p = panel + half * panels;
        kTiles[n - 1](packed + static_cast<ptrdiff_t>(row) * pairs, output, p,
                      asking.Of(up, p, panel + 1 < panels ? p + 1 : up.num_panels(), b),
                      made + half * kPanel);
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

void RoundToPairs(const float* x, int in, float* packed) { RoundRow(x, in, kLanes, packed); }
void RoundToStrips(const float* x, int in, ptrdiff_t stride, float* packed) {
  RoundRow(x, in, stride, packed);
}

MatMulKernel BFloat16Kernel() { return {kMaxRows, Pairs, Pack, MultiplyPanels, MultiplyGlu}; }

}  // namespace packrat
