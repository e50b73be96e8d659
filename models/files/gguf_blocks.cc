// Decodes GGUF's blocks. A block has 32 or 256 weights and their float16 scales. The K formats also
// have a scale of 6 or 8 bits for every 16 or 32 weights.
#include <cstring>

#include "kernels/dtype.h"
#include "models/files/gguf.h"

namespace packrat {
namespace {

struct TypeInfo {
  GgufType type;
  const char* name;
  int block;
  size_t bytes;
};

constexpr TypeInfo kTypes[] = {
    {GgufType::kF32, "F32", 1, 4},       {GgufType::kF16, "F16", 1, 2},
    {GgufType::kBF16, "BF16", 1, 2},     {GgufType::kQ4_0, "Q4_0", 32, 18},
    {GgufType::kQ4_1, "Q4_1", 32, 20},   {GgufType::kQ8_0, "Q8_0", 32, 34},
    {GgufType::kQ4_K, "Q4_K", 256, 144}, {GgufType::kQ6_K, "Q6_K", 256, 210},
};

const TypeInfo& Info(GgufType type) {
  const TypeInfo* info = kTypes;
  while (info->type != type) ++info;
  return *info;
}

float Half(const uint8_t* p) {
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  return LoadAsFloat(&bits, 0, DType::kF16);
}

float WidenOne(GgufType type, const uint8_t* p) {
  if (type == GgufType::kF16) return Half(p);
  uint32_t bits = 0;
  if (type == GgufType::kBF16) {
    std::memcpy(reinterpret_cast<char*>(&bits) + 2, p, 2);
  } else {
    std::memcpy(&bits, p, 4);
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

void WidenQ6K(const uint8_t* block, float* values) {
  const uint8_t *low = block, *high = block + 128;
  const auto* scales = reinterpret_cast<const int8_t*>(block + 192);
  const float d = Half(block + 208);
  for (int k = 0; k < 256; ++k) {
    // Halves of 128: the low four bits of k and k + 64 share a byte, the high two of k, k + 32,
    // k + 64 and k + 96.
    const int half = k / 128, in = k % 128, group = k / 16;
    const int four = low[half * 64 + in % 64] >> (in / 64 * 4) & 15;
    const int two = high[half * 32 + in % 32] >> (in / 32 * 2) & 3;
    values[k] = d * static_cast<float>(scales[group]) * static_cast<float>((four | two << 4) - 32);
  }
}

}  // namespace

const char* GgufTypeName(GgufType type) { return Info(type).name; }
int GgufBlock(GgufType type) { return Info(type).block; }
size_t GgufBlockBytes(GgufType type) { return Info(type).bytes; }

GgufScale GgufScaleOf(const uint8_t* block, int group) {
  // Eight groups have six bits each, in 12 bytes. The first four groups have theirs in one piece.
  // The others have four bits in one place, and two above the six bits of the first groups.
  const uint8_t* packed = block + 4;
  int scale, minimum;
  if (group < 4) {
    scale = packed[group] & 63;
    minimum = packed[group + 4] & 63;
  } else {
    scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4;
    minimum = packed[group + 4] >> 4 | (packed[group] >> 6) << 4;
  }
  return {Half(block) * static_cast<float>(scale), Half(block + 2) * static_cast<float>(minimum)};
}

int GgufQuarter(const uint8_t* block, int k) {
  // 64 weights share 32 bytes: the first half of them is in the low bits.
  return block[16 + k / 64 * 32 + k % 32] >> (k / 32 % 2 * 4) & 15;
}

void WidenGgufBlock(GgufType type, const uint8_t* block, float* values) {
  switch (type) {
    case GgufType::kF32:
    case GgufType::kF16:
    case GgufType::kBF16:
      values[0] = WidenOne(type, block);
      break;
    case GgufType::kQ8_0:
      for (int k = 0; k < 32; ++k) {
        values[k] = Half(block) * static_cast<float>(static_cast<int8_t>(block[2 + k]));
      }
      break;
    case GgufType::kQ4_0:
      for (int k = 0; k < 32; ++k) {
        values[k] = Half(block) * static_cast<float>((block[2 + k % 16] >> (k / 16 * 4) & 15) - 8);
      }
      break;
    case GgufType::kQ4_1:
      for (int k = 0; k < 32; ++k) {
        const int q = block[4 + k % 16] >> (k / 16 * 4) & 15;
        values[k] = Half(block) * static_cast<float>(q) + Half(block + 2);
      }
      break;
    case GgufType::kQ4_K:
      for (int k = 0; k < 256; ++k) {
        const GgufScale scale = GgufScaleOf(block, k / 32);
        values[k] = scale.scale * static_cast<float>(GgufQuarter(block, k)) - scale.minimum;
      }
      break;
    case GgufType::kQ6_K:
      WidenQ6K(block, values);
      break;
  }
}

}  // namespace packrat
