// Products of quantised weights with inputs rounded to 8 bits: kernels/quantized.h, panel by panel.
#include <algorithm>

#include "kernels/matmul_kernel.h"
#include "kernels/quantized.h"

namespace packrat {
namespace {

static_assert(SpreadPanelBytes(kQuantGroup) <= MatMulScratchFloats(kQuantGroup) * sizeof(float));

int RowFloats(int in) { return static_cast<int>(QuantRowBytes(in) / sizeof(float)); }

template <const QuantKernels& kKernels>
void Pack(const float* x, ptrdiff_t x_stride, int n, int in, float* packed) {
  kKernels.round(x, x_stride, n, in, reinterpret_cast<int32_t*>(packed));
}

using Finish = void(const float* sums, const MatMulOutput& output, int panel, float* y);

// FinishSums() on any processor.
void FinishPlainly(const float* sums, const MatMulOutput& output, int panel, float* y) {
  const int first = panel * kQuantPanel;
  const int count = std::min(kQuantPanel, output.weight->out() - first);
  const float* bias = output.bias == nullptr ? nullptr : output.bias + first;
  for (int c = 0; c < count; ++c) {
    const float sum = (bias == nullptr ? sums[c] : sums[c] + bias[c]) * output.scale;
    y[c] = output.accumulate ? sum + y[c] : sum;
  }
}

// From so many blocks of rows on it is quicker to take the halves of int4 apart once for all.
constexpr int kSpreadBlocks = 8;

template <const QuantKernels& kKernels, Finish* kFinish>
void MultiplyPanels(const float* packed, int rows, const MatMulOutput& output, int first, int end,
                    float* scratch) {
  const PackedMatrix& weight = *output.weight;
  const int in = weight.in(), blocks = NumRowBlocks(rows, kKernels.max_rows);
  const bool spread = weight.type() == DType::kInt4 && blocks >= kSpreadBlocks;
  auto* const bytes = reinterpret_cast<std::byte*>(scratch);
  alignas(64) float out[kMostQuantRows * kQuantPanel];
  for (int panel = first; panel < end; ++panel) {
    float* const column = output.y + ptrdiff_t{panel} * kQuantPanel;
    if (spread) kKernels.spread(weight.panel(panel), in, bytes);
    for (int b = 0; b < blocks; ++b) {
      const int row = BlockStart(b, blocks, rows), n = BlockStart(b + 1, blocks, rows) - row;
      const float* x = packed + static_cast<ptrdiff_t>(row) * RowFloats(in);
      const auto* words = reinterpret_cast<const int32_t*>(x);
      if (spread) {
        kKernels.multiply_spread(words, n, bytes, in, out);
      } else {
        kKernels.multiply(weight.type(), words, n, weight.panel(panel), in, /*ask=*/b == 0, out);
      }
      for (int r = 0; r < n; ++r) {
        kFinish(out + ptrdiff_t{r} * kQuantPanel, output, panel,
                column + (row + r) * output.y_stride);
      }
    }
  }
}

template <const QuantKernels& kKernels, Finish* kFinish = FinishPlainly>
MatMulKernel Kernel() {
  return {kKernels.max_rows, RowFloats, Pack<kKernels>, MultiplyPanels<kKernels, kFinish>};
}

}  // namespace

MatMulKernel Int8Kernel() {
  const QuantKernels& kernels = ChosenQuantKernels();
  if (&kernels == &kQuantVnni) return Kernel<kQuantVnni, FinishSums>();
  return &kernels == &kQuantAvx2 ? Kernel<kQuantAvx2>() : Kernel<kQuantSse4>();
}

}  // namespace packrat
