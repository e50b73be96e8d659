#include "kernels/rg_lru.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/span_channels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rg_lru.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/vec16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

// Both gates of one head for kRows tokens from `token` on: each sum in order of the input channel,
// however many rows share a load of the weights.
template <int kRows>
HWY_INLINE void GateRows(const RgLruShape& s, const RgLruWeights& w, const RgLruOperands& o,
                         ptrdiff_t tokens, ptrdiff_t token, int head) {
  const int dim = s.head_dim, first = head * dim;
  const float* input = w.input_gate + static_cast<ptrdiff_t>(first) * dim;
  const float* recurrent = w.recurrent_gate + static_cast<ptrdiff_t>(first) * dim;
  const float* x = o.x + token * s.width() + first;
  for (int j = 0; j < dim; j += 16) {
    const int n = dim - j;
    V16 in[kRows], forget[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      in[r] = LoadFirst(w.input_bias + first + j, n);
      forget[r] = LoadFirst(w.recurrent_bias + first + j, n);
    }
    for (int i = 0; i < dim; ++i) {
      const ptrdiff_t at = static_cast<ptrdiff_t>(i) * dim + j;
      const V16 wi = LoadFirst(input + at, n), wr = LoadFirst(recurrent + at, n);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const V16 value = Set(x[static_cast<ptrdiff_t>(r) * s.width() + i]);
        in[r] = MulAdd(value, wi, in[r]);
        forget[r] = MulAdd(value, wr, forget[r]);
      }
    }
    const V16 rate = Sub(Zero(), LoadFirst(w.rate + first + j, n));
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const ptrdiff_t row = static_cast<ptrdiff_t>(r) * s.width() + j;
      float* to = o.work + token * s.width() + first + row;
      StoreFirst(Mul(rate, Sigmoid(forget[r])), n, to);
      StoreFirst(Mul(Sigmoid(in[r]), LoadFirst(x + row, n)), n, to + tokens * s.width());
    }
  }
}

// The same for tokens [begin, end).
void RgLruGates(const RgLruShape& s, const RgLruWeights& w, const RgLruOperands& o, int tokens,
                int begin, int end, int head) {
  // As many as leave the sums of both gates in registers.
  constexpr int kRows = HWY_TARGET == HWY_SSE4 ? 1 : HWY_TARGET == HWY_AVX2 ? 2 : 8;
  int t = begin;
  for (; t + kRows <= end; t += kRows) GateRows<kRows>(s, w, o, tokens, t, head);
  for (; t < end; ++t) GateRows<1>(s, w, o, tokens, t, head);
}

// Channels [begin, end) of one span; `begin` is a multiple of 16.
void RgLruScan(const RgLruShape& s, const BatchSpan& span, const StateParts& tails,
               const RgLruOperands& o, int tokens, int begin, int end) {
  auto* tail = reinterpret_cast<float*>(tails.base + span.tail * tails.stride);
  const ptrdiff_t width = s.width();
  for (int c = begin; c < end; c += 16) {
    const int n = end - c;
    V16 h = span.position > 0 ? LoadFirst(tail + c, n) : Zero();
    for (int t = 0; t < span.num_tokens; ++t) {
      const ptrdiff_t row = span.first_token + t;
      const V16 log_a = LoadFirst(o.work + row * width + c, n);
      const V16 in = LoadFirst(o.work + (tokens + row) * width + c, n);
      if (span.position + t == 0) {
        h = in;
      } else {
        const V16 rest = Sqrt(Sub(Zero(), Expm1(Add(log_a, log_a))));  // sqrt(1 - a^2)
        h = MulAdd(Exp(log_a), h, Mul(rest, in));
      }
      const float* gate = static_cast<const float*>(o.gate) + row * o.stride + c;
      StoreFirst(Mul(h, GeluTanh(LoadFirst(gate, n))), n,
                 static_cast<float*>(o.out) + row * width + c);
    }
    StoreFirst(h, n, tail + c);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace packrat {

HWY_EXPORT(RgLruGates);
HWY_EXPORT(RgLruScan);

absl::Status RgLru(const RgLruShape& shape, const RgLruWeights& weights, const BatchView& batch,
                   const StateParts& tails, const RgLruOperands& operands, KernelContext* context) {
  PACKRAT_CHECK(operands.type == DType::kF32);
  const int tokens = batch.num_tokens;
  constexpr int kTokens = 16;  // Of a task.
  const int64_t pieces = (tokens + kTokens - 1) / kTokens;
  context->pool.Run(pieces * shape.num_heads, [&](int64_t task, int) {
    const int begin = static_cast<int>(task / shape.num_heads) * kTokens;
    HWY_DYNAMIC_DISPATCH(RgLruGates)
    (shape, weights, operands, tokens, begin, std::min(begin + kTokens, tokens),
     static_cast<int>(task % shape.num_heads));
  });
  constexpr int kChannels = 64;  // Per task.
  ForSpanChannels(batch, shape.width(), kChannels, context,
                  [&](const BatchSpan& span, int begin, int end) {
                    HWY_DYNAMIC_DISPATCH(RgLruScan)
                    (shape, span, tails, operands, tokens, begin, end);
                  });
  return absl::OkStatus();
}

}  // namespace packrat
#endif  // HWY_ONCE
