#include "kernels/packed_matrix.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace packrat {

PackedMatrix::PackedMatrix(DType type, Arithmetic arithmetic, int out, int in)
    : type_(type),
      arithmetic_(arithmetic),
      out_(out),
      in_(in),
      data_(Bytes(type, arithmetic, out, in)) {
  PACKRAT_CHECK(ArithmeticFor(type, arithmetic) == arithmetic) << DTypeName(type);
  PACKRAT_CHECK(!IsQuantized(type) || in % kQuantGroup == 0) << in;
}

void PackedMatrix::SetRows(int first, int count, const void* rows) {
  PACKRAT_CHECK(first >= 0 && count >= 0 && count <= out_ - first) << first << " + " << count;
  PACKRAT_CHECK(!IsQuantized(type_)) << DTypeName(type_);
  const size_t size = DTypeBytes(type_);
  const auto* source = static_cast<const std::byte*>(rows);
  const auto copy = [&](auto element) {
    using T = decltype(element);
    for (int i = 0; i < count; ++i) {
      const int row = first + i;
      auto* target =
          reinterpret_cast<T*>(data_.data() + row / kPanel * PanelBytes(type_, arithmetic_, in_));
      const std::byte* from = source + static_cast<size_t>(i) * in_ * size;
      for (int k = 0; k < in_; ++k) std::memcpy(target + Index(row, k), from + k * size, sizeof(T));
    }
  };
  if (size == 4) {
    copy(uint32_t{});
  } else {
    copy(uint16_t{});
  }
}

void PackedMatrix::SetGroup(int row, int group, const QuantGroup& values) {
  PACKRAT_CHECK(row >= 0 && row < out_ && group >= 0 && group < in_ / kQuantGroup)
      << row << ", " << group;
  PACKRAT_CHECK(IsQuantized(type_)) << DTypeName(type_);
  PutQuantGroup(values, type_, row % kPanel,
                data_.data() + row / kPanel * PanelBytes(type_, arithmetic_, in_) +
                    group * QuantBlockBytes(type_));
}

void PackedMatrix::CopyRow(int row, float* out) const {
  const std::byte* from = panel(row / kPanel);
  if (IsQuantized(type_)) {
    for (int k = 0; k < in_; k += kQuantGroup, from += QuantBlockBytes(type_)) {
      WidenQuantGroup(TakeQuantGroup(from, type_, row % kPanel), type_, out + k);
    }
    return;
  }
  if (arithmetic_ == Arithmetic::kBFloat16) {
    from += row % kPanel * sizeof(uint32_t);
    for (int k = 0; k < in_; k += 2, from += kPanel * sizeof(uint32_t)) {
      uint32_t pair;
      std::memcpy(&pair, from, sizeof pair);
      const uint32_t wide[] = {pair << 16, pair & 0xffff0000u};
      std::memcpy(out + k, wide, sizeof(float) * std::min(2, in_ - k));
    }
    return;
  }
  for (int k = 0; k < in_; ++k) out[k] = LoadAsFloat(from, Index(row, k), type_);
}

}  // namespace packrat
