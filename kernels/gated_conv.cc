#include "kernels/gated_conv.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/span_channels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gated_conv.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/short_conv-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

// Channels [begin, end) of one span; `begin` is a multiple of 16.
void ConvolveSpan(const GatedConvShape& shape, const GatedConvWeights& weights,
                  const BatchSpan& span, const StateParts& tails, const GatedConvOperands& x,
                  int begin, int end) {
  const ptrdiff_t first = static_cast<ptrdiff_t>(span.first_token) * x.stride;
  const auto rows = [&](const void* p) {
    return p == nullptr ? nullptr : static_cast<const float*>(p) + first;
  };
  auto* history = reinterpret_cast<float*>(tails.base + span.tail * tails.stride);
  const ConvInput conv = {rows(x.x),       x.stride,      history,
                          weights.taps,    weights.bias,  shape.channels,
                          shape.conv_size, span.position, rows(x.in_gate)};
  const float* gate = rows(x.out_gate);
  auto* out =
      static_cast<float*>(x.out) + static_cast<ptrdiff_t>(span.first_token) * shape.channels;
  // In blocks, so that what neighbouring channels of a row share is still in the cache.
  for (int t = 0, n; t < span.num_tokens; t += n) {
    n = std::min(kBlockTokens, span.num_tokens - t);
    ConvolveTokens(conv, t, n, begin, end - begin, [&](int i, int d, V16 y) HWY_ATTR {
      const int c = begin + d;
      if (gate != nullptr) {
        y = Mul(LoadFirst(gate + static_cast<ptrdiff_t>(t + i) * x.stride + c, end - c), y);
      }
      StoreFirst(y, end - c, out + static_cast<ptrdiff_t>(t + i) * shape.channels + c);
    });
  }
  if (shape.conv_size > 1) KeepConvInput(conv, span.num_tokens, begin, end - begin, history);
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace packrat {

HWY_EXPORT(ConvolveSpan);

absl::Status GatedConv(const GatedConvShape& shape, const GatedConvWeights& weights,
                       const BatchView& batch, const StateParts& tails,
                       const GatedConvOperands& operands, KernelContext* context) {
  PACKRAT_CHECK(operands.type == DType::kF32 && operands.out_type == DType::kF32);
  constexpr int kChannels = 256;  // Per task: rows of 1 KiB, one after the other.
  ForSpanChannels(batch, shape.channels, kChannels, context,
                  [&](const BatchSpan& span, int begin, int end) {
                    HWY_DYNAMIC_DISPATCH(ConvolveSpan)
                    (shape, weights, span, tails, operands, begin, end);
                  });
  return absl::OkStatus();
}

}  // namespace packrat
#endif  // HWY_ONCE
