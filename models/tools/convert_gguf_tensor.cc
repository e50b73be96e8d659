#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/quantized.h"
#include "models/tools/convert_gguf.h"

namespace packrat {
namespace {

// Of blocks that are ours, each with a scale first, and with a minimum behind it if `minimum`.
absl::Status CheckScales(const std::vector<uint8_t>& data, size_t block, bool minimum) {
  const auto finite = [&](size_t at) { return (data[at + 1] & 0x7c) != 0x7c; };
  for (size_t at = 0; at < data.size(); at += block) {
    if (finite(at) && (!minimum || finite(at + 2))) continue;
    return absl::InvalidArgumentError(absl::StrCat(minimum ? "a scale or minimum" : "a scale",
                                                   " is not finite, in block ", at / block));
  }
  return absl::OkStatus();
}

// Of a Q4_0 block: w = d * (q - 8) = d * q - 8 d.
absl::Status FromQ40(const uint8_t* block, std::vector<uint8_t>* to) {
  uint16_t scale;
  std::memcpy(&scale, block, 2);
  const float minimum = -8 * LoadAsFloat(&scale, 0, DType::kF16);
  uint16_t bits;
  if (!ToFloat16(minimum, &bits))
    return absl::InvalidArgumentError("a scale is too large or not finite");
  to->insert(to->end(), block, block + 2);
  const auto* bytes = reinterpret_cast<const uint8_t*>(&bits);
  to->insert(to->end(), bytes, bytes + 2);
  to->insert(to->end(), block + 2, block + 18);
  return absl::OkStatus();
}

// Of a Q4_K block: eight groups of ours.
absl::Status FromQ4K(const uint8_t* block, std::vector<uint8_t>* to) {
  for (int g = 0; g < 8; ++g) {
    const GgufScale scale = GgufScaleOf(block, g);
    QuantGroup group;
    if (!ToFloat16(scale.scale, &group.scale) || !ToFloat16(-scale.minimum, &group.minimum)) {
      return absl::InvalidArgumentError("a scale is too large or not finite");
    }
    for (int k = 0; k < kQuantGroup; ++k) {
      group.q[k] = static_cast<int8_t>(GgufQuarter(block, g * kQuantGroup + k));
    }
    AppendQuantGroup(group, DType::kInt4, to);
  }
  return absl::OkStatus();
}

absl::Status FromQ6K(const uint8_t* block, std::vector<uint8_t>* to) {
  float values[256];
  WidenGgufBlock(GgufType::kQ6_K, block, values);
  for (int g = 0; g < 8; ++g) {
    QuantGroup group;
    absl::Status status = QuantizeGroup(values + g * kQuantGroup, DType::kInt8, &group);
    if (!status.ok()) return status;
    AppendQuantGroup(group, DType::kInt8, to);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ConvertedTensor> ConvertGgufTensor(const GgufTensor& tensor,
                                                  const std::vector<uint8_t>& data) {
  absl::Status (*convert)(const uint8_t*, std::vector<uint8_t>*) = nullptr;
  ConvertedTensor converted{TensorType::kInt4, {}};
  switch (tensor.type) {
    case GgufType::kF32:
      return ConvertedTensor{TensorType::kF32, data};
    case GgufType::kF16:
      return ConvertedTensor{TensorType::kF16, data};
    case GgufType::kBF16:
      return ConvertedTensor{TensorType::kBF16, data};
    case GgufType::kQ8_0:
    case GgufType::kQ4_1: {
      const bool minimum = tensor.type == GgufType::kQ4_1;
      absl::Status status = CheckScales(data, GgufBlockBytes(tensor.type), minimum);
      if (!status.ok()) return status;
      return ConvertedTensor{minimum ? TensorType::kInt4 : TensorType::kInt8, data};
    }
    case GgufType::kQ4_0:
      convert = FromQ40;
      break;
    case GgufType::kQ4_K:
      convert = FromQ4K;
      break;
    case GgufType::kQ6_K:
      converted.type = TensorType::kInt8;
      convert = FromQ6K;
      break;
  }
  const size_t block = GgufBlockBytes(tensor.type);
  for (size_t at = 0; at < data.size(); at += block) {
    absl::Status status = convert(data.data() + at, &converted.bytes);
    if (!status.ok()) return status;
  }
  return converted;
}

}  // namespace packrat
