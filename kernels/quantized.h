// Weights in 8 or 4 bits, in groups of 32 along `in`, each group with a float16 scale:
//   int8: w = scale * q, q in [-128, 127]; 8.5 bits a weight.
//   int4: w = scale * q + minimum (float16 too), q in [0, 15]; 5 bits a weight.
// Both are what GGUF calls Q8_0 and Q4_1, and hold Q4_0 exactly (minimum = -8 * scale).
//
// Two ways to multiply by them:
//   - in float32: the weight is widened exactly, and an output is one chain
//     acc = fma(x[k], w[k], acc) for k = 0, 1, ..., as with weights that are stored so.
//   - in integers: a token's inputs are rounded to 8 bits by groups of 32 as well, a group's dot
//     product is exact, and an output is one chain over the groups g = 0, 1, ... of
//       acc = fma(dot * scale, x_scale, acc),  int4: then acc = fma(minimum, x_sum * x_scale, acc)
//     with both products rounded. So an output has the same bits on every instruction set but
//     SSE4, which has no fma: there a product and its sum round by themselves.
// In both, a row alone gives the same bits as the same row among many.
#ifndef PACKRAT_KERNELS_QUANTIZED_H_
#define PACKRAT_KERNELS_QUANTIZED_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "kernels/check.h"
#include "kernels/dtype.h"

namespace packrat {

inline constexpr int kQuantGroup = 32;
inline constexpr int kQuantPanel = 32;  // Outputs side by side, as PackedMatrix::kPanel.

// A group of one row as it is stored: values, in the order of the inputs.
struct QuantGroup {
  uint16_t scale, minimum;  // float16 bits; int8 has no minimum: 0.
  int8_t q[kQuantGroup];
};

// The same in a file, the bytes of GGUF's Q8_0 and Q4_1: scale, for int4 minimum, and the values;
// for int4 byte j has value j in its low half and value j + 16 in its high half.
constexpr size_t StoredGroupBytes(DType format) {
  PACKRAT_CHECK(IsQuantized(format));
  return format == DType::kInt8 ? 34 : 20;
}
void StoreQuantGroup(const QuantGroup& group, DType format, uint8_t* to);
void AppendQuantGroup(const QuantGroup& group, DType format, std::vector<uint8_t>* to);
QuantGroup LoadQuantGroup(const uint8_t* from, DType format);

// Blocks of a panel: 32 outputs times one group.
//   values  int8: q + 128, (8 quads of inputs, 32 outputs, 4 inputs) bytes;
//           int4: (4, 32, 4) bytes, of which [p, o, j] holds input 8p + j in its low half and input
//           8p + 4 + j in its high half
//   scales  (32) float16
//   minima  (32) float16, int4 only
inline constexpr int kInt8Scales = 1024, kInt4Scales = 512;  // Where they begin.
constexpr size_t QuantBlockBytes(DType format) {
  return format == DType::kInt8 ? kInt8Scales + 64 : kInt4Scales + 64 + 64;
}
// A panel is its blocks, one after the other. `in` is a multiple of 32.
constexpr size_t QuantPanelBytes(DType format, int in) {
  return QuantBlockBytes(format) * static_cast<size_t>(in / kQuantGroup);
}
// A block of int4 with a byte for each value, in int8's order, for products of many rows, which
// need not take halves apart again and again: (8, 32, 4) bytes, scales, minima.
inline constexpr size_t kSpreadBlockBytes = kInt8Scales + 64 + 64;
constexpr size_t SpreadPanelBytes(int in) {
  return kSpreadBlockBytes * static_cast<size_t>(in / kQuantGroup);
}

// To the nearest float16, ties to even; false for what is beyond the largest, or a NaN.
bool ToFloat16(float value, uint16_t* bits);

// The nearest weights of the format, by least squares within the group for int4. INVALID_ARGUMENT
// where a value is not finite or too large for a float16 scale.
absl::Status QuantizeGroup(const float* values, DType format, QuantGroup* group);

// One group of output `lane` (0 to 31) into, or out of, its block.
void PutQuantGroup(const QuantGroup& group, DType format, int lane, std::byte* block);
QuantGroup TakeQuantGroup(const std::byte* block, DType format, int lane);
// Its 32 weights, exactly.
void WidenQuantGroup(const QuantGroup& group, DType format, float* values);
// n values of any type as a file holds them, exactly. Of quantised types n is a multiple of 32.
void WidenStored(const uint8_t* from, DType type, size_t n, float* values);

// Rows of inputs rounded to 8 bits, n rows together for one tile: for each group (kQuantWords, n)
// words of 4 bytes:
//   0..7  four inputs each, q = x / scale to the nearest, ties to even, in [-127, 127]
//   8     scale = largest magnitude / 127, float32
//   9     kDotStart - 128 * sum of the q, int32: with what a dot product may begin; the second part
//         takes out what the + 128 of int8 weights adds
//   10    scale * sum of the q, float32
// A group whose magnitudes are all below 2^-100 counts as zeros; one that holds a NaN or an
// infinity has the scale NaN.
inline constexpr int kQuantWords = 11;
// The bits of 1.5 * 2^23 in float32. A whole number up to 2^22 in magnitude that is added to them
// is added to the float as well. So a dot product that begins here is dot * scale by one
// instruction, fma(1.5 * 2^23 + dot, scale, -1.5 * 2^23 * scale), since of a float16's scale the
// last is exact.
inline constexpr int32_t kDotStart = 0x4b400000;
inline constexpr float kDotStartValue = 0x1.8p23f;
constexpr size_t QuantRowBytes(int in) {
  return static_cast<size_t>(in / kQuantGroup) * kQuantWords * 4;
}
void QuantizeRows(const float* x, ptrdiff_t stride, int n, int in, int32_t* to);

// Its parts for one group: the scale for a largest magnitude, which is a NaN if one is, and words 8
// to 10 of a row of n.
struct QuantScale {
  float scale, inverse;
};
inline QuantScale QuantScaleOf(float largest) {
  if (!(largest <= std::numeric_limits<float>::max())) {
    return {std::numeric_limits<float>::quiet_NaN(), 0};
  }
  if (largest < 0x1p-100f) return {0, 0};
  return {largest / 127, 127 / largest};
}
inline void PutQuantScale(float scale, int32_t sum, int n, int32_t* to) {
  const float weighted = scale * static_cast<float>(sum);
  std::memcpy(to + 8 * n, &scale, 4);
  to[9 * n] = kDotStart - 128 * sum;
  std::memcpy(to + 10 * n, &weighted, 4);
}

// The kernel of one instruction set.
inline constexpr int kMostQuantRows = 6;
struct QuantKernels {
  const char* name;
  // As QuantizeRows(), to the bit.
  void (*round)(const float* x, ptrdiff_t stride, int n, int in, int32_t* to);
  int max_rows;  // Of one call; at most kMostQuantRows.
  // out (n, 32) = n rows as QuantizeRows() wrote them, times one panel. `ask`: memory for what is
  // soon needed of the panel and behind it, which takes time where it is in the cache.
  void (*multiply)(DType format, const int32_t* rows, int n, const std::byte* panel, int in,
                   bool ask, float* out);
  // The same bits with int4's blocks spread, which spread() does: panel and `to` do not overlap.
  void (*multiply_spread)(const int32_t* rows, int n, const std::byte* spread, int in, float* out);
  void (*spread)(const std::byte* panel, int in, std::byte* to);
};
extern const QuantKernels kQuantVnni, kQuantAvx2, kQuantSse4;
// The kernel for CpuTargetName(). For avx512 and amx it is VNNI's, or that of avx2 on a machine
// without VNNI.
const QuantKernels& ChosenQuantKernels();

}  // namespace packrat

#endif  // PACKRAT_KERNELS_QUANTIZED_H_
