#include "kernels/quantized.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "hwy/highway.h"
#include "kernels/check.h"
#include "kernels/cpu_target.h"
#include "kernels/dtype.h"

namespace packrat {
namespace {

constexpr float kLargestHalf = 65504.0f;

float FromHalf(uint16_t half) { return LoadAsFloat(&half, 0, DType::kF16); }

// To the nearest, ties to even, for magnitudes up to kLargestHalf.
uint16_t ToHalf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits < 0x38800000u) {  // Below 2^-14: a multiple of 2^-24.
    return static_cast<uint16_t>(sign |
                                 static_cast<uint32_t>(std::lrint(std::fabs(value) * 0x1p24f)));
  }
  bits += 0xfffu + (bits >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((bits >> 13) - (112u << 10)));
}

int8_t Nearest(float value, int low, int high) {
  return static_cast<int8_t>(std::clamp(static_cast<int>(std::lrint(value)), low, high));
}

// The scale is rounded up, so that 127 times it reaches the largest value.
void QuantizeInt8(const float* values, float largest, QuantGroup* group) {
  group->scale = ToHalf(largest / 127);
  if (FromHalf(group->scale) * 127 < largest) ++group->scale;
  group->minimum = 0;
  const float scale = FromHalf(group->scale);
  for (int k = 0; k < kQuantGroup; ++k) {
    group->q[k] = scale == 0 ? int8_t{0} : Nearest(values[k] / scale, -127, 127);
  }
}

// The group's values on the grid scale * [0, 15] + minimum, and the sum of squared errors.
float PutOnGrid(const float* values, float scale, float minimum, float* q) {
  // Below that a float holds no inverse, and what differs so little is one value.
  const float inverse = scale < 0x1p-120f ? 0 : 1 / scale;
  float error = 0;
  for (int k = 0; k < kQuantGroup; ++k) {
    // Adding 1.5 * 2^23 rounds to an integer.
    const float near = ((values[k] - minimum) * inverse + 0x1.8p23f) - 0x1.8p23f;
    q[k] = std::min(std::max(near, 0.0f), 15.0f);
    const float off = values[k] - (scale * q[k] + minimum);
    error += off * off;
  }
  return error;
}

// Tries the whole range and smaller ones, since a few outliers may cost all other values their
// precision. Each is fitted once by least squares.
void QuantizeInt4(const float* values, float low, float high, QuantGroup* group) {
  constexpr float kShares[] = {1.0f, 0.95f, 0.9f, 0.85f, 0.8f};
  const float center = low / 2 + high / 2, half = high / 2 - low / 2;
  const auto round = [](float* x) {
    // What fits best may lie beyond all values, and beyond what the type holds.
    const uint16_t bits = ToHalf(std::min(std::max(*x, -kLargestHalf), kLargestHalf));
    *x = FromHalf(bits);
    return bits;
  };
  float best = std::numeric_limits<float>::infinity();
  float q[kQuantGroup];
  for (const float share : kShares) {
    float scale = 2 * share * half / 15, minimum = center - share * half;
    PutOnGrid(values, scale, minimum, q);
    float sum_q = 0, sum_qq = 0, sum_v = 0, sum_qv = 0;
    for (int k = 0; k < kQuantGroup; ++k) {
      sum_q += q[k], sum_qq += q[k] * q[k], sum_v += values[k], sum_qv += q[k] * values[k];
    }
    const float spread = sum_qq - sum_q * sum_q / kQuantGroup;
    if (spread > 0) scale = (sum_qv - sum_q * sum_v / kQuantGroup) / spread;
    const uint16_t scale_bits = round(&scale);
    minimum = (sum_v - scale * sum_q) / kQuantGroup;
    const uint16_t minimum_bits = round(&minimum);
    const float error = PutOnGrid(values, scale, minimum, q);
    if (!(error < best)) continue;
    best = error;
    group->scale = scale_bits;
    group->minimum = minimum_bits;
    for (int k = 0; k < kQuantGroup; ++k) group->q[k] = static_cast<int8_t>(q[k]);
  }
}

uint16_t LoadU16(const std::byte* p) {
  uint16_t value;
  std::memcpy(&value, p, 2);
  return value;
}

}  // namespace

bool ToFloat16(float value, uint16_t* bits) {
  if (!(std::fabs(value) <= kLargestHalf)) return false;
  *bits = ToHalf(value);
  return true;
}

absl::Status QuantizeGroup(const float* values, DType format, QuantGroup* group) {
  float low = values[0], high = values[0];
  bool finite = true;
  for (int k = 0; k < kQuantGroup; ++k) {
    low = std::min(low, values[k]);
    high = std::max(high, values[k]);
    finite = finite && std::isfinite(values[k]);
  }
  if (!finite) return absl::InvalidArgumentError("a value is not finite");
  const float largest = std::max(-low, high);
  const float limit = format == DType::kInt8 ? kLargestHalf * 127 : kLargestHalf;
  if (largest > limit) {
    return absl::InvalidArgumentError(absl::StrCat("value ", largest, " is too large for ",
                                                   DTypeName(format), "; the limit is ", limit));
  }
  if (format == DType::kInt8) {
    QuantizeInt8(values, largest, group);
  } else {
    QuantizeInt4(values, low, high, group);
  }
  return absl::OkStatus();
}

void StoreQuantGroup(const QuantGroup& group, DType format, uint8_t* to) {
  std::memcpy(to, &group.scale, 2);
  if (format == DType::kInt8) {
    std::memcpy(to + 2, group.q, kQuantGroup);
    return;
  }
  std::memcpy(to + 2, &group.minimum, 2);
  for (int k = 0; k < 16; ++k) {
    to[4 + k] = static_cast<uint8_t>(group.q[k] | group.q[k + 16] << 4);
  }
}

void AppendQuantGroup(const QuantGroup& group, DType format, std::vector<uint8_t>* to) {
  to->resize(to->size() + StoredGroupBytes(format));
  StoreQuantGroup(group, format, &*to->end() - StoredGroupBytes(format));
}

QuantGroup LoadQuantGroup(const uint8_t* from, DType format) {
  QuantGroup group = {};
  std::memcpy(&group.scale, from, 2);
  if (format == DType::kInt8) {
    std::memcpy(group.q, from + 2, kQuantGroup);
    return group;
  }
  std::memcpy(&group.minimum, from + 2, 2);
  for (int k = 0; k < 16; ++k) {
    group.q[k] = static_cast<int8_t>(from[4 + k] & 15);
    group.q[k + 16] = static_cast<int8_t>(from[4 + k] >> 4);
  }
  return group;
}

void PutQuantGroup(const QuantGroup& group, DType format, int lane, std::byte* block) {
  const auto put = [&](size_t at, uint16_t half) { std::memcpy(block + at + lane * 2, &half, 2); };
  if (format == DType::kInt8) {
    for (int k = 0; k < kQuantGroup; ++k) {
      block[k / 4 * 128 + lane * 4 + k % 4] = static_cast<std::byte>(group.q[k] + 128);
    }
    put(kInt8Scales, group.scale);
    return;
  }
  for (int k = 0; k < 16; ++k) {
    const int pair = k / 4, j = k % 4;
    block[pair * 128 + lane * 4 + j] =
        static_cast<std::byte>(group.q[8 * pair + j] | group.q[8 * pair + 4 + j] << 4);
  }
  put(kInt4Scales, group.scale);
  put(kInt4Scales + 64, group.minimum);
}

QuantGroup TakeQuantGroup(const std::byte* block, DType format, int lane) {
  QuantGroup group = {};
  if (format == DType::kInt8) {
    for (int k = 0; k < kQuantGroup; ++k) {
      group.q[k] =
          static_cast<int8_t>(static_cast<int>(block[k / 4 * 128 + lane * 4 + k % 4]) - 128);
    }
    group.scale = LoadU16(block + kInt8Scales + lane * 2);
    return group;
  }
  for (int k = 0; k < 16; ++k) {
    const int pair = k / 4, j = k % 4;
    const int both = static_cast<int>(block[pair * 128 + lane * 4 + j]);
    group.q[8 * pair + j] = static_cast<int8_t>(both & 15);
    group.q[8 * pair + 4 + j] = static_cast<int8_t>(both >> 4);
  }
  group.scale = LoadU16(block + kInt4Scales + lane * 2);
  group.minimum = LoadU16(block + kInt4Scales + 64 + lane * 2);
  return group;
}

void WidenQuantGroup(const QuantGroup& group, DType format, float* values) {
  const float scale = FromHalf(group.scale);
  const float minimum = FromHalf(group.minimum);
  for (int k = 0; k < kQuantGroup; ++k) values[k] = scale * group.q[k] + minimum;
}

void WidenStored(const uint8_t* from, DType type, size_t n, float* values) {
  if (!IsQuantized(type)) {
    for (size_t i = 0; i < n; ++i) values[i] = LoadAsFloat(from, i, type);
    return;
  }
  for (size_t i = 0; i < n; i += kQuantGroup, from += StoredGroupBytes(type)) {
    WidenQuantGroup(LoadQuantGroup(from, type), type, values + i);
  }
}

// 128-bit vectors on every instruction set: a row is rounded only once for all its outputs, so
// wider ones would gain little.
HWY_PUSH_ATTRIBUTES("sse4.1,ssse3")
void QuantizeRows(const float* x, ptrdiff_t stride, int n, int in, int32_t* to) {
  const __m128i magnitude = _mm_set1_epi32(0x7fffffff);
  for (int g = 0; g < in / kQuantGroup; ++g, to += n * kQuantWords) {
    for (int r = 0; r < n; ++r) {
      const float* from = x + r * stride + g * kQuantGroup;
      // As integers, magnitudes are in order, and NaNs come last.
      __m128i largest = _mm_setzero_si128();
      __m128 values[8];
      for (int i = 0; i < 8; ++i) {
        values[i] = _mm_loadu_ps(from + 4 * i);
        largest = _mm_max_epi32(largest, _mm_and_si128(_mm_castps_si128(values[i]), magnitude));
      }
      largest = _mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0x4e));
      largest = _mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0xb1));
      const float most = _mm_cvtss_f32(_mm_castsi128_ps(largest));
      const QuantScale scale = QuantScaleOf(most);
      const __m128 factor = _mm_set1_ps(scale.inverse);
      __m128i sum = _mm_setzero_si128();
      for (int half = 0; half < 2; ++half) {
        __m128i ints[4];
        for (int i = 0; i < 4; ++i) {
          ints[i] = _mm_cvtps_epi32(_mm_mul_ps(values[4 * half + i], factor));
        }
        const __m128i bytes =
            _mm_packs_epi16(_mm_packs_epi32(ints[0], ints[1]), _mm_packs_epi32(ints[2], ints[3]));
        // Pairs of bytes, then of their sums.
        sum = _mm_add_epi32(
            sum, _mm_madd_epi16(_mm_maddubs_epi16(_mm_set1_epi8(1), bytes), _mm_set1_epi16(1)));
        int32_t quads[4];
        _mm_storeu_si128(reinterpret_cast<__m128i*>(quads), bytes);
        for (int i = 0; i < 4; ++i) to[(4 * half + i) * n + r] = quads[i];
      }
      sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
      sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
      PutQuantScale(scale.scale, _mm_cvtsi128_si32(sum), n, to + r);
    }
  }
}
HWY_POP_ATTRIBUTES

const QuantKernels& ChosenQuantKernels() {
  static const bool has_vnni =
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl");
  const std::string target = CpuTargetName();
  if (target == "sse4") return kQuantSse4;
  return target != "avx2" && has_vnni ? kQuantVnni : kQuantAvx2;
}

}  // namespace packrat
