// What MatMul() needs of a kernel. All but the kernels go through kernels/matmul.h.
#ifndef PACKRAT_KERNELS_MATMUL_KERNEL_H_
#define PACKRAT_KERNELS_MATMUL_KERNEL_H_

#include <cstddef>
#include <cstdint>

#include "kernels/matmul.h"

namespace packrat {

// Rows are packed and multiplied in blocks of nearly equal size, so that a tile's accumulators stay
// in registers.
struct MatMulKernel {
  int max_rows;  // Of a block; at most kMostBlockRows.
  // Floats of memory that a packed row takes; at most `in`.
  int (*row_floats)(int in);
  // Packs one block: x (n, in), row stride x_stride.
  void (*pack)(const float* x, ptrdiff_t x_stride, int n, int in, float* packed);
  // Panels [first, end) of one output for all rows; packed: their blocks, one after the other.
  // scratch: MatMulScratchFloats(in), this thread's.
  void (*multiply)(const float* packed, int rows, const MatMulOutput& output, int first, int end,
                   float* scratch);
  // The gated units of these panels of the gate, packed for the product that takes them; the gate's
  // panels are all whole. Null where there is no such kernel.
  void (*multiply_glu)(const float* packed, int rows, const GluUp& glu, int first, int end,
                       float* to) = nullptr;
};

// So many products are added in one chain in float32, and the chains' sums after each other. The
// error of one chain grows with the width; that of two levels is least near its root. Of whole
// models 1,024 wide (LFM2 350M, Granite 4.0 H 350M) logits differ from float64's by 6.7e-6 and
// 1.1e-5 with one chain, 2.5e-6 and 5.1e-6 with chains of 256, and 1.6e-6 and 3.1e-6 so.
inline constexpr int kChainInputs = 64;

// Block b of n covers rows [BlockStart(b), BlockStart(b + 1)).
inline int NumRowBlocks(int rows, int max_rows) { return (rows + max_rows - 1) / max_rows; }
inline int BlockStart(int block, int blocks, int rows) {
  return static_cast<int>(static_cast<int64_t>(block) * rows / blocks);
}

// For the instruction set that was chosen.
MatMulKernel Float32Kernel();
// Only where CpuHasBFloat16() (kernels/cpu_target.h).
MatMulKernel BFloat16Kernel();
// x (in) rounded to bfloat16, in pairs, to `packed`, which may be x; an odd `in` is padded with a
// zero. Only where CpuHasBFloat16().
void RoundToPairs(const float* x, int in, float* packed);
// The same, sixteen pairs at a time, `stride` floats from the first of one to that of the next.
void RoundToStrips(const float* x, int in, ptrdiff_t stride, float* packed);
// Only where CpuHasTiles().
MatMulKernel TilesKernel();
// A row's sums of `panel` (32), aligned to 64 bytes, to y, with what the output wants besides. Only
// where the processor has AVX-512.
void FinishSums(const float* sums, const MatMulOutput& output, int panel, float* y);
MatMulKernel Int8Kernel();

}  // namespace packrat

#endif  // PACKRAT_KERNELS_MATMUL_KERNEL_H_
