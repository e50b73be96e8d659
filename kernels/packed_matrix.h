// A weight as the CPU's products read it. Its form follows from how it is stored and from what it
// is multiplied in, so both are chosen before it is filled, when a model is loaded.
#ifndef PACKRAT_KERNELS_PACKED_MATRIX_H_
#define PACKRAT_KERNELS_PACKED_MATRIX_H_

#include <cstddef>
#include <cstdint>

#include "kernels/aligned.h"
#include "kernels/dtype.h"
#include "kernels/quantized.h"

namespace packrat {

// What a product multiplies in. kernels/matmul.h says what each promises, and KernelOf() in
// matmul.cc which kernel computes it.
enum class Arithmetic : uint8_t { kFloat32, kBFloat16, kInt8 };

constexpr const char* ArithmeticName(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::kFloat32    ? "float32"
         : arithmetic == Arithmetic::kBFloat16 ? "bfloat16"
                                               : "int8";
}

// What a weight of this type is multiplied in if `wanted` was asked for. Activations are rounded to
// bfloat16 or to 8 bits only where the weights are no finer.
constexpr Arithmetic ArithmeticFor(DType type, Arithmetic wanted) {
  if (wanted == Arithmetic::kFloat32) return wanted;
  if (IsQuantized(type)) return Arithmetic::kInt8;
  return type == DType::kBF16 && wanted == Arithmetic::kBFloat16 ? wanted : Arithmetic::kFloat32;
}

// A weight (out, in), rearranged so that its memory is read once, in order, for any number of rows:
// panels of 32 outputs, the last one padded with zeros. A panel is
// - (in, 32) for float32;
// - (ceil(in / 2), 32, 2) for bfloat16, whose dot products take pairs; an odd `in` is padded with a
//   zero;
// - of quantised weights, for either arithmetic, blocks (kernels/quantized.h).
class PackedMatrix {
 public:
  static constexpr int kPanel = 32;

  PackedMatrix() = default;
  // Zeros, to be filled by SetRows().
  PackedMatrix(DType type, Arithmetic arithmetic, int out, int in);
  // `rows`: (out, in) row-major, of any alignment; not kept.
  PackedMatrix(const void* rows, DType type, Arithmetic arithmetic, int out, int in)
      : PackedMatrix(type, arithmetic, out, in) {
    SetRows(0, out, rows);
  }
  // Rows [first, first + count) from `rows`, (count, in). Of quantised weights: SetGroup().
  void SetRows(int first, int count, const void* rows);
  // Inputs [32 * group, 32 * group + 32) of a row.
  void SetGroup(int row, int group, const QuantGroup& values);

  int out() const { return out_; }
  int in() const { return in_; }
  DType type() const { return type_; }
  Arithmetic arithmetic() const { return arithmetic_; }
  size_t bytes() const { return data_.size(); }
  // The size of such a matrix.
  static size_t Bytes(DType type, Arithmetic arithmetic, int out, int in) {
    return static_cast<size_t>(Panels(out)) * PanelBytes(type, arithmetic, in);
  }
  int num_panels() const { return Panels(out_); }
  const std::byte* panel(int p) const {
    return data_.data() + static_cast<size_t>(p) * PanelBytes(type_, arithmetic_, in_);
  }
  // Row `row` (in) as float32, exactly as stored: an embedding's lookup.
  void CopyRow(int row, float* out) const;

 private:
  static int Panels(int out) { return (out + kPanel - 1) / kPanel; }
  // How many consecutive inputs of an output lie side by side.
  static int Group(Arithmetic arithmetic) { return arithmetic == Arithmetic::kBFloat16 ? 2 : 1; }
  static size_t PanelBytes(DType type, Arithmetic arithmetic, int in) {
    if (IsQuantized(type)) return QuantPanelBytes(type, in);
    const int group = Group(arithmetic);
    return static_cast<size_t>((in + group - 1) / group * group) * kPanel * DTypeBytes(type);
  }
  // Of an element within its panel.
  size_t Index(int row, int k) const {
    const int group = Group(arithmetic_);
    return static_cast<size_t>(k / group * kPanel + row % kPanel) * group + k % group;
  }

  DType type_ = DType::kF32;
  Arithmetic arithmetic_ = Arithmetic::kFloat32;
  int out_ = 0, in_ = 0;
  AlignedBytes data_;
};

}  // namespace packrat

#endif  // PACKRAT_KERNELS_PACKED_MATRIX_H_
