// Linear layers: y = x W', with W in its stored format (kernels/dtype.h) and float32
// accumulation.
//
// On the CPU every output has one order of additions, whatever the number of rows or threads: one
// row alone gives the same bits as the same row among many. What is added follows from the
// arithmetic that a weight was packed for:
// - kFloat32: acc = fma(x[k], w[k], acc) for k = 0, 1, ... 63, with one rounding where the
//   instruction set has it; the same from zero for each further 64 inputs, whose sums are added.
//   Subnormal numbers count as zeros (kernels/flush_subnormals.h).
// - kBFloat16, for weights in bfloat16: x is rounded to bfloat16 (to nearest even, subnormals to
//   zero), and acc = x[k] w[k] + (x[k + 1] w[k + 1] + acc) for k = 0, 2, ..., each sum rounded to
//   nearest even, with subnormal weights and sums taken for zero. Where CpuHasBFloat16()
//   (kernels/cpu_target.h). With the target amx the sum of each 32 inputs is made by itself, as
//   kernels/tiles-inl.h says.
// - kInt8, of quantised weights: exact sums over groups of inputs rounded to 8 bits, which
//   kernels/quantized.h defines; equal bits on every instruction set but SSE4.
#ifndef PACKRAT_KERNELS_MATMUL_H_
#define PACKRAT_KERNELS_MATMUL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/context.h"
#include "kernels/dtype.h"
#include "kernels/elementwise.h"
#include "kernels/gpu.h"
#include "kernels/packed_matrix.h"

namespace packrat {

inline constexpr int kMostBlockRows = 16;  // Rows that are packed together, at most.

// One product of MatMul(): y (rows, out) with row stride y_stride (floats).
struct MatMulOutput {
  const PackedMatrix* weight;
  float* y;
  ptrdiff_t y_stride;
  const float* bias = nullptr;  // (out), added to the product; may be null.
  bool accumulate = false;      // y += product instead of y = product.
  float scale = 1.0f;           // Times the product with its bias.
};

// Products of one x (rows, in), row stride x_stride, with several weights of equal `in`. x must not
// overlap a y. Needs context.packed of rows * in floats, and MatMulScratchFloats(in) of scratch per
// thread where a weight is quantised.
void MatMul(const float* x, ptrdiff_t x_stride, int rows, absl::Span<const MatMulOutput> outputs,
            KernelContext* context);

// The same of rows that are made when the product wants them, which spares memory a round trip:
// make(row, to) writes row `row` (in), from any thread; twice, where outputs differ in arithmetic.
// Always needs that scratch.
void MatMul(absl::FunctionRef<void(int row, float* to)> make, int rows,
            absl::Span<const MatMulOutput> outputs, KernelContext* context);
constexpr size_t MatMulScratchFloats(int in) { return size_t{kMostBlockRows} * in; }

// The product before a gated linear unit (kernels/elementwise.h).
struct GluUp {
  const PackedMatrix* weight;  // (2 * width, in), the gate's rows first
  const float* bias;           // (2 * width) or null
  const Gating* gating;
};
// y = Glu(x up' + bias) W', x made as above: the bits of MatMul(), Glu() and MatMul(), but what
// lies between them is rounded and packed as it is made, while it is in the cache. False, with
// nothing done, where no kernel can: of other arithmetic than bfloat16, or widths that are no
// multiples of PackedMatrix::kPanel.
bool GluMatMul(absl::FunctionRef<void(int row, float* to)> make, int rows, const GluUp& up,
               const MatMulOutput& down, KernelContext* context);

// Rows in groups, each with a weight of its own: rows [begins[g], begins[g + 1]) belong to group g.
struct MatMulGroups {
  int count;                    // kMostGroups at most.
  const PackedMatrix* weights;  // (count), of one shape, type and arithmetic
  const int32_t* begins;        // (count + 1), rising from 0
};
inline constexpr int kMostGroups = 1024;
// y (rows, out), dense = each row, made as above, times its group's weight. Packs as many groups at
// a time as context.packed holds, which must hold the largest: its rows * in floats.
void MatMul(absl::FunctionRef<void(int row, float* to)> make, const MatMulGroups& groups, float* y,
            KernelContext* context);

// A weight (out, in) as its device reads it: a PackedMatrix, or on a GPU rows of float32 or
// bfloat16, or tiles of quantised weights (kernels/quant_tiles.h). Several of one shape lie one
// after the other.
struct Weight {
  const void* data = nullptr;
  DType type = DType::kF32;
  int out = 0, in = 0;
};

namespace gpu {

struct MatMulArguments {
  const Weight* weight;
  const void* x;  // (rows, in), dense. Where the weight is quantised, aligned to 16 bytes.
  DType type;     // Of x: float32 or bfloat16, and that of a weight that is not quantised.
  int rows;
  void* y;                      // (rows, out), dense
  DType y_type;                 // float32, or x's
  const float* bias = nullptr;  // (out), added; may be null
  bool accumulate = false;      // y += product. Then y is float32.
  float scale = 1.0f;           // Times the product with its bias.
};

// Products on one GPU: the library's, tuned once for each shape, and kernels of our own for few
// rows and for quantised weights. Sums are float32 in full precision (no TF32). What is captured
// must have run outside of a capture before: that is when it is tuned, and when the driver loads
// its code.
//
// Quantised weights are multiplied exactly as they are stored (kernels/quantized.h), in either type
// of x, with one order of additions for every number of rows; unless `deterministic`, with another
// one for few rows of float32.
class MatMul {
 public:
  struct Options {
    // One order of additions for every number of rows: a row alone gives the same bits as in a
    // batch.
    bool deterministic = false;
  };
  // UNAVAILABLE or INTERNAL where the library cannot be used.
  static absl::StatusOr<std::unique_ptr<MatMul>> Create(const Options& options);
  virtual ~MatMul() = default;

  virtual absl::Status Run(const MatMulArguments& arguments, CudaStream stream) = 0;
  virtual size_t workspace_bytes() const = 0;
};

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_MATMUL_H_
