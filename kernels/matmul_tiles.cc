// Products of bfloat16 in the processor's tiles (AMX-BF16), for which Highway has no target.
#include "kernels/matmul_tiles-inl.h"

#include <algorithm>

#include "hwy/base.h"
// Keep before the attributes.
#include <immintrin.h>

namespace packrat {

HWY_PUSH_ATTRIBUTES("avx512f")

void FinishSums(const float* sums, const MatMulOutput& output, int panel, float* y) {
  const __m512 scale = _mm512_set1_ps(output.scale);
  for (int c = 0; c < PackedMatrix::kPanel; c += kTileOutputs) {
    const int first = panel * PackedMatrix::kPanel + c;
    const int left = std::clamp(output.weight->out() - first, 0, kTileOutputs);
    const auto lanes = static_cast<__mmask16>((1 << left) - 1);
    __m512 sum = _mm512_load_ps(sums + c);
    if (output.bias != nullptr) {
      sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, output.bias + first));
    }
    sum = _mm512_mul_ps(sum, scale);
    if (output.accumulate) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, y + c));
    _mm512_mask_storeu_ps(y + c, lanes, sum);
  }
}

HWY_POP_ATTRIBUTES

namespace {

struct MatMulTiles : ProcessorTiles {
  static constexpr auto FinishRow = FinishSums;
  static constexpr auto Round = RoundToPairs;
};

int Pairs(int in) { return (in + 1) / 2; }

// x (n, in) to a block of strips (StripStart()).
void Pack(const float* x, ptrdiff_t stride, int n, int in, float* packed) {
  const int pairs = Pairs(in), whole = pairs / kTilePairs * kTilePairs, left = pairs - whole;
  for (int r = 0; r < n; ++r, x += stride) {
    RoundToStrips(x, std::min(2 * whole, in), ptrdiff_t{kTilePairs} * n,
                  packed + ptrdiff_t{kTilePairs} * r);
    if (left > 0) {
      RoundToPairs(x + ptrdiff_t{2} * whole, in - 2 * whole,
                   packed + StripStart(n, pairs, whole / kTilePairs, r));
    }
  }
}

}  // namespace

MatMulKernel TilesKernel() {
  return {kTileRows, Pairs, Pack, MultiplyPanelsByTiles<MatMulTiles>,
          MultiplyGluByTiles<MatMulTiles>};
}

}  // namespace packrat
