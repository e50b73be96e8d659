// Products of quantised weights with inputs rounded to 8 bits: kernels/quantized.h, panel by panel.
#include <algorithm>

#include "kernels/matmul_kernel.h"
#include "kernels/quantized.h"

namespace packrat {
namespace {

int RowFloats(int in) { return static_cast<int>(QuantRowBytes(in) / sizeof(float)); }

template <const QuantKernels& kKernels>
void Pack(const float* x, ptrdiff_t x_stride, int n, int in, float* packed) {
  kKernels.round(x, x_stride, n, in, reinterpret_cast<int32_t*>(packed));
}

template <const QuantKernels& kKernels>
void MultiplyPanels(const float* packed, int rows, const MatMulOutput& output, int first, int end) {
  const PackedMatrix& weight = *output.weight;
  const int in = weight.in(), blocks = NumRowBlocks(rows, kKernels.max_rows);
  alignas(64) float out[kMostQuantRows * kQuantPanel];
  for (int panel = first; panel < end; ++panel) {
    const int column = panel * kQuantPanel;
    const int count = std::min(kQuantPanel, weight.out() - column);
    for (int b = 0; b < blocks; ++b) {
      const int row = BlockStart(b, blocks, rows), n = BlockStart(b + 1, blocks, rows) - row;
      const float* x = packed + static_cast<ptrdiff_t>(row) * RowFloats(in);
      kKernels.multiply(weight.type(), reinterpret_cast<const int32_t*>(x), n, weight.panel(panel),
                        in, out);
      for (int r = 0; r < n; ++r) {
        float* y = output.y + (row + r) * output.y_stride + column;
        const float* sums = out + r * kQuantPanel;
        const float* bias = output.bias == nullptr ? nullptr : output.bias + column;
        for (int c = 0; c < count; ++c) {
          const float sum = (bias == nullptr ? sums[c] : sums[c] + bias[c]) * output.scale;
          y[c] = output.accumulate ? sum + y[c] : sum;
        }
      }
    }
  }
}

template <const QuantKernels& kKernels>
MatMulKernel Kernel() {
  return {kKernels.max_rows, RowFloats, Pack<kKernels>, MultiplyPanels<kKernels>};
}

}  // namespace

MatMulKernel Int8Kernel() {
  const QuantKernels& kernels = ChosenQuantKernels();
  if (&kernels == &kQuantVnni) return Kernel<kQuantVnni>();
  return &kernels == &kQuantAvx2 ? Kernel<kQuantAvx2>() : Kernel<kQuantSse4>();
}

}  // namespace packrat
