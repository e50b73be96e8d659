#include "kernels/gated_delta.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/matmul_kernel.h"
#include "kernels/paired_state.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gated_delta.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/block_state-inl.h"
#include "kernels/short_conv-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

// One span, for one key head and the value heads that share it.
struct DeltaSpan {
  const GatedDeltaShape& shape;
  const GatedDeltaWeights& weights;
  const BatchSpan& span;
  const GatedDeltaOperands& x;
  bool paired;  // S is as kernels/paired_state.h says.
  int key_head, key_padded, value_padded;
  float *k, *history;  // Tail: the key head's rows, and what the convolution keeps.
  float *all_u, *all_log_decay;
  ConvInput conv;

  DeltaSpan(const GatedDeltaShape& s, const GatedDeltaWeights& w, const BatchSpan& sp, float* tail,
            const GatedDeltaOperands& o, bool is_paired, int head)
      : shape(s),
        weights(w),
        span(sp),
        x(o),
        paired(is_paired),
        key_head(head),
        key_padded(PadTo16(s.key_dim)),
        value_padded(PadTo16(s.value_dim)) {
    const GatedDeltaTailLayout layout(s);
    k = tail + layout.k + static_cast<size_t>(head) * kBlockTokens * key_padded;
    history = tail + layout.conv;
    all_u = tail + layout.u;
    all_log_decay = tail + layout.log_decay;
    conv = {static_cast<const float*>(x.qkv) + static_cast<ptrdiff_t>(span.first_token) * x.stride,
            x.stride,
            history,
            w.conv,
            w.conv_bias,
            s.channels(),
            s.conv_size,
            span.position};
  }
  // First channels of the convolution.
  int q_channel() const { return key_head * shape.key_dim; }
  int k_channel() const { return shape.keys() + q_channel(); }
  int v_channel(int head) const { return 2 * shape.keys() + head * shape.value_dim; }
  ptrdiff_t token(int t) const { return span.first_token + t; }
};

// Tokens [t, t + n) of a span, which lie at `slot` of their block.
struct DeltaTokens {
  int t, n, slot;
  int end() const { return slot + n; }
};

// Scratch of a block.
struct DeltaScratch {
  float* q;                // (16, key_padded)
  float *k_dots, *q_dots;  // (16, 16): of token t's key and query with key s
  float* pairs;            // (16, 2, key_padded / 2): key and query as pairs, where S is read so
  float* read;             // (16, 2, value_padded): k_t S, q_t S
  float *v, *o;            // (16, value_padded), (value_padded)
};

// Writes keys to the tail and queries to scratch, and the dot products of both with every key up to
// the token's own.
void FillKeys(const DeltaSpan& h, const DeltaTokens& at, const DeltaScratch& scratch) {
  const int dim = h.shape.key_dim, padded = h.key_padded, first = at.slot * padded;
  const float length = 1.0f / std::sqrt(static_cast<float>(dim));
  ShortConvUnits(h.conv, at.t, at.n, h.k_channel(), dim, 1.0f, h.k + first, padded);
  ShortConvUnits(h.conv, at.t, at.n, h.q_channel(), dim, length, scratch.q + first, padded);
  const float* keys[kBlockTokens];
  for (int s = 0; s < at.end(); ++s) keys[s] = h.k + s * padded;
  for (int t = at.slot; t < at.end(); ++t) {
    const float* x[] = {keys[t], scratch.q + t * padded};
    float* dots[] = {scratch.k_dots + t * kBlockTokens, scratch.q_dots + t * kBlockTokens};
    BlockDots<2>(x, keys, t + 1, padded, dots);
    if (!h.paired) continue;
    RoundToPairs(x[0], padded, scratch.pairs + t * padded);
    RoundToPairs(x[1], padded, scratch.pairs + t * padded + padded / 2);
  }
}

// k_t S and q_t S of the block's new tokens; two tokens at once read S half as often.
void ReadSealed(const DeltaSpan& h, const DeltaTokens& at, const float* state,
                const DeltaScratch& scratch) {
  const int keys = h.key_padded, values = h.value_padded;
  if (h.paired) {
    return ReadPairedState(scratch.pairs + at.slot * keys, keys / 2, 2 * at.n, state,
                           (h.shape.key_dim + 1) / 2, values, scratch.read + 2 * at.slot * values,
                           values);
  }
  const auto k = [&](int t) { return h.k + t * keys; };
  const auto q = [&](int t) { return scratch.q + t * keys; };
  const auto k_out = [&](int t) { return scratch.read + 2 * t * values; };
  const auto q_out = [&](int t) { return k_out(t) + values; };
  int t = at.slot;
  for (; t + 2 <= at.end(); t += 2) {
    const float* rows[] = {k(t), q(t), k(t + 1), q(t + 1)};
    float* out[] = {k_out(t), q_out(t), k_out(t + 1), q_out(t + 1)};
    ReadState<4>(rows, state, h.shape.key_dim, values, out);
  }
  for (; t < at.end(); ++t) {
    const float* rows[] = {k(t), q(t)};
    float* out[] = {k_out(t), q_out(t)};
    ReadState<2>(rows, state, h.shape.key_dim, values, out);
  }
}

// u_t and o_t of a token, where u (16, values) holds those before it. c: how far they have decayed;
// decay: how far S has; read, v: of the token.
void WriteToken(int t, int values, bool sealed, float decay, const float* c, float beta,
                const float* k_dots, const float* q_dots, const float* read, const float* v,
                float* u, float* o) {
  HWY_ALIGN float k_weights[kBlockTokens], q_weights[kBlockTokens];
  Store(Mul(Load(c), Load(k_dots)), k_weights);
  Store(Mul(Load(c), Load(q_dots)), q_weights);
  ForColumns<StateWidth(2)>(values, [&](int d, auto width) HWY_ATTR {
    constexpr int kWidth = decltype(width)::value;
    V16 k_sum[kWidth], q_sum[kWidth];
#pragma GCC unroll 16
    for (int j = 0; j < kWidth; ++j) {
      k_sum[j] = sealed ? Mul(Load(read + d + j * 16), Set(decay)) : Zero();
      q_sum[j] = sealed ? Mul(Load(read + values + d + j * 16), Set(decay)) : Zero();
    }
    const float* row = u + d;
    for (int s = 0; s < t; ++s, row += values) {
      const V16 k_weight = Set(k_weights[s]), q_weight = Set(q_weights[s]);
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j) {
        const V16 earlier = Load(row + j * 16);
        k_sum[j] = MulAdd(k_weight, earlier, k_sum[j]);
        q_sum[j] = MulAdd(q_weight, earlier, q_sum[j]);
      }
    }
    const V16 own = Set(q_weights[t]);
#pragma GCC unroll 16
    for (int j = 0; j < kWidth; ++j) {
      const V16 mine = Mul(Set(beta), Sub(Load(v + d + j * 16), k_sum[j]));
      Store(mine, u + t * values + d + j * 16);
      Store(MulAdd(own, mine, q_sum[j]), o + d + j * 16);
    }
  });
}

// Output norm and gate of token t; false if it is not finite.
bool FinishDelta(const DeltaSpan& h, int head, const float* o, int t) {
  V16 squares = Zero(), finite = Zero();  // 0 * y is 0 for finite y and NaN otherwise.
  for (int d = 0; d < h.value_padded; d += 16) squares = MulAdd(Load(o + d), Load(o + d), squares);
  const float mean = SumLanes(squares) / static_cast<float>(h.shape.value_dim);
  const V16 scale = Set(1.0f / std::sqrt(mean + h.weights.norm_eps));
  const float* gate =
      static_cast<const float*>(h.x.gate) + h.token(t) * h.x.stride + head * h.shape.value_dim;
  float* out =
      static_cast<float*>(h.x.out) + h.token(t) * h.shape.values() + head * h.shape.value_dim;
  for (int d = 0; d < h.value_padded; d += 16) {
    const int n = h.shape.value_dim - d;
    const V16 normed = Mul(Mul(Load(o + d), scale), LoadFirst(h.weights.norm + d, n));
    const V16 y = Mul(normed, Silu(LoadFirst(gate + d, n)));
    StoreFirst(y, n, out + d);
    finite = MulAdd(y, Zero(), finite);
  }
  return SumLanes(finite) == 0.0f;
}

// The sealed state after the block whose sixteen tokens fill the tail. c: how far they have decayed
// at its last.
void SealDelta(const DeltaSpan& h, bool sealed, float decay, const float* c, const float* u,
               const float* in, float* out) {
  const float* keys[kBlockTokens];
  for (int s = 0; s < kBlockTokens; ++s) keys[s] = h.k + s * h.key_padded;
  if (h.paired) {
    SealPairedState(sealed, decay, c, keys, u, h.key_padded, h.value_padded, in, out,
                    static_cast<ptrdiff_t>(GatedDeltaSlotFloats(h.shape) / 2));
  } else {
    SealState(sealed, decay, c, keys, u, h.key_padded, h.value_padded, in, out);
  }
}

// beta and log g of a block's new tokens.
void FillGates(const DeltaSpan& h, const DeltaTokens& at, int head, float* beta, float* log_decay) {
  HWY_ALIGN float decays[kBlockTokens] = {}, betas[kBlockTokens] = {};
  for (int i = 0; i < at.n; ++i) {
    const ptrdiff_t scalar = h.token(at.t + i) * h.x.scalar_stride + head;
    betas[i] = h.x.beta[scalar];
    decays[i] = h.x.decay[scalar];
  }
  StoreFirst(Mul(Set(h.weights.beta_scale), Sigmoid(Load(betas))), at.n, beta + at.slot);
  const V16 step = Softplus(Add(Load(decays), Set(h.weights.dt_bias[head])));
  StoreFirst(Mul(Set(-h.weights.decay_rate[head]), step), at.n, log_decay + at.slot);
}

// One value head's part of a block: the corrected values and outputs of its tokens, and the sealing
// where the block ends.
bool ValueHead(const DeltaSpan& h, const DeltaTokens& at, int head, bool sealed, const float* in,
               float* out, const DeltaScratch& scratch) {
  const int values = h.value_padded;
  float* u = h.all_u + static_cast<size_t>(head) * kBlockTokens * values;
  float* log_decay = h.all_log_decay + head * kBlockTokens;
  float beta[kBlockTokens];
  ShortConvTokens(h.conv, at.t, at.n, h.v_channel(head), h.shape.value_dim,
                  scratch.v + at.slot * values, values);
  FillGates(h, at, head, beta, log_decay);
  BlockDecays decays;
  for (int s = 0; s < at.slot; ++s) decays.Advance(s, log_decay[s]);
  if (sealed) ReadSealed(h, at, in, scratch);
  HWY_ALIGN float decay[kBlockTokens], c[kBlockTokens];
  DecaysFromStart(log_decay, at.end(), decay);
  bool finite = true;
  for (int t = at.slot; t < at.end(); ++t) {
    decays.Advance(t, log_decay[t]);
    Store(Exp(Load(decays.since)), c);
    WriteToken(t, values, sealed, decay[t], c, beta[t], scratch.k_dots + t * kBlockTokens,
               scratch.q_dots + t * kBlockTokens, scratch.read + 2 * t * values,
               scratch.v + t * values, u, scratch.o);
    finite &= FinishDelta(h, head, scratch.o, at.t + t - at.slot);
  }
  if (at.end() == kBlockTokens) SealDelta(h, sealed, decay[kBlockTokens - 1], c, u, in, out);
  return finite;
}

// All tokens of a span for one key head, block by block.
void DeltaSpanHead(const GatedDeltaShape& shape, const GatedDeltaWeights& weights,
                   const BatchSpan& span, const StateParts& slots, const StateParts& tails,
                   const GatedDeltaOperands& x, bool paired, int key_head, float* memory,
                   SpanTotals* totals) {
  const auto part = [](const StateParts& parts, int i) {
    return reinterpret_cast<float*>(parts.base + i * parts.stride);
  };
  const DeltaSpan h(shape, weights, span, part(tails, span.tail), x, paired, key_head);
  const int shared = shape.num_value_heads / shape.num_key_heads;
  DeltaScratch scratch;
  scratch.q = memory;
  scratch.k_dots = scratch.q + kBlockTokens * h.key_padded;
  scratch.q_dots = scratch.k_dots + kBlockTokens * kBlockTokens;
  scratch.pairs = scratch.q_dots + kBlockTokens * kBlockTokens;
  scratch.read = scratch.pairs + kBlockTokens * h.key_padded;
  scratch.v = scratch.read + 2 * kBlockTokens * h.value_padded;
  scratch.o = scratch.v + kBlockTokens * h.value_padded;

  const float* in = part(slots, span.slot_in);
  float* out = part(slots, span.slot_out);
  bool finite = true;
  for (DeltaTokens at = {}; at.t < span.num_tokens; at.t += at.n) {
    const int position = span.position + at.t;
    at.slot = position % kBlockTokens;
    at.n = std::min(kBlockTokens - at.slot, span.num_tokens - at.t);
    FillKeys(h, at, scratch);
    for (int head = key_head * shared; head < (key_head + 1) * shared; ++head) {
      const size_t state = head * GatedDeltaHeadFloats(shape) / (paired ? 2 : 1);
      finite &= ValueHead(h, at, head, position >= kBlockTokens, in + state, out + state, scratch);
    }
    if (at.end() == kBlockTokens) in = out;
  }
  if (shape.conv_size > 1) {
    const auto keep = [&](int channel, int n) {
      KeepConvInput(h.conv, span.num_tokens, channel, n, h.history);
    };
    keep(h.q_channel(), shape.key_dim);
    keep(h.k_channel(), shape.key_dim);
    keep(h.v_channel(key_head * shared), shared * shape.value_dim);
  }
  if (!finite) __atomic_store_n(&totals->not_finite, 1u, __ATOMIC_RELAXED);
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace packrat {

HWY_EXPORT(DeltaSpanHead);

namespace {

absl::Status RunDelta(const GatedDeltaShape& shape, const GatedDeltaWeights& weights,
                      const BatchView& batch, const StateParts& slots, const StateParts& tails,
                      const GatedDeltaOperands& operands, bool paired, SpanTotals* totals,
                      KernelContext* context) {
  PACKRAT_CHECK(operands.type == DType::kF32 && operands.state_type == DType::kF32);
  const auto tasks = static_cast<int64_t>(batch.num_spans) * shape.num_key_heads;
  context->pool.Run(tasks, [&](int64_t task, int worker) {
    const auto span = static_cast<int>(task / shape.num_key_heads);
    if (batch.spans[span].num_tokens == 0) return;
    HWY_DYNAMIC_DISPATCH(DeltaSpanHead)
    (shape, weights, batch.spans[span], slots, tails, operands, paired,
     static_cast<int>(task % shape.num_key_heads), context->scratch(worker), &totals[span]);
  });
  return absl::OkStatus();
}

}  // namespace

absl::Status GatedDelta(const GatedDeltaShape& shape, const GatedDeltaWeights& weights,
                        const BatchView& batch, const StateParts& slots, const StateParts& tails,
                        const GatedDeltaOperands& operands, SpanTotals* totals,
                        KernelContext* context) {
  return RunDelta(shape, weights, batch, slots, tails, operands, /*paired=*/false, totals, context);
}

absl::Status GatedDeltaInBFloat16(const GatedDeltaShape& shape, const GatedDeltaWeights& weights,
                                  const BatchView& batch, const StateParts& slots,
                                  const StateParts& tails, const GatedDeltaOperands& operands,
                                  SpanTotals* totals, KernelContext* context) {
  return RunDelta(shape, weights, batch, slots, tails, operands, /*paired=*/true, totals, context);
}

}  // namespace packrat
#endif  // HWY_ONCE
