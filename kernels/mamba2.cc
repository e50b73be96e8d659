#include "kernels/mamba2.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/mamba2.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/short_conv-inl.h"

#ifndef PACKRAT_KERNELS_MAMBA2_CC_ONCE_
#define PACKRAT_KERNELS_MAMBA2_CC_ONCE_
namespace packrat {

// An operation's arguments.
struct MambaCall {
  const Mamba2Shape& shape;
  const Mamba2Weights& weights;
  const BatchView& batch;
  const StateParts &slots, &tails;
  const Mamba2Operands& x;
  SpanTotals* totals;

  float* Memory(int token) const {
    return x.memory + static_cast<size_t>(token) * Mamba2TokenLayout(shape).end;
  }
  float* Tail(const BatchSpan& span) const {
    return reinterpret_cast<float*>(tails.base + span.tail * tails.stride);
  }
  float* Slot(int slot) const { return reinterpret_cast<float*>(slots.base + slot * slots.stride); }
  // First channels of the convolution; x of head j begins at j * head_dim.
  int b_channel(int group) const { return shape.values() + group * shape.state_size; }
  int c_channel(int group) const { return shape.keys() + b_channel(group); }
};

// Tokens [t, t + n) of a span, which lie in one block, at `slot`.
struct MambaTokens {
  int t, n, slot;
  MambaTokens(const BatchSpan& span, int first)
      : t(first),
        n(std::min(kBlockTokens - (span.position + t) % kBlockTokens, span.num_tokens - t)),
        slot((span.position + t) % kBlockTokens) {}
  int end() const { return slot + n; }
};

}  // namespace packrat
#endif  // PACKRAT_KERNELS_MAMBA2_CC_ONCE_

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

ConvInput MambaConv(const MambaCall& call, const BatchSpan& span) {
  return {static_cast<const float*>(call.x.xbc) +
              static_cast<ptrdiff_t>(span.first_token) * call.x.stride,
          call.x.stride,
          call.Tail(span) + Mamba2TailLayout(call.shape).conv,
          call.weights.conv,
          call.weights.conv_bias,
          call.shape.channels(),
          call.shape.conv_size,
          span.position};
}

// log(1 + exp(a)), to a few roundings; NaN for what is not finite.
HWY_INLINE V16 Softplus(const V16& a) {
  const V16 small = Exp(Min(a, Sub(Zero(), a)));  // exp(-|a|)
  V16 log;
  for (int i = 0; i < kVecs; ++i) log.v[i] = hn::Log1p(Lanes(), small.v[i]);
  return Add(Add(Max(a, Zero()), log), Sub(a, a));
}

// dt and the logarithms of the decays of a token's heads.
void FillDecays(const MambaCall& call, int token, float* dt, float* log_decay) {
  const Mamba2Weights& w = call.weights;
  const float* in = call.x.dt + static_cast<ptrdiff_t>(token) * call.x.dt_stride;
  for (int head = 0; head < call.shape.num_heads; head += 16) {
    const int n = call.shape.num_heads - head;
    const V16 y =
        Softplus(MulAdd(LoadFirst(in + head, n), Set(w.dt_scale), LoadFirst(w.dt_bias + head, n)));
    // A NaN passes.
    const V16 least = IfGreater(Set(w.dt_min), y, Set(w.dt_min), y);
    const V16 step = IfGreater(least, Set(w.dt_max), Set(w.dt_max), least);
    Store(step, dt + head);
    Store(Mul(Sub(Zero(), step), LoadFirst(w.decay_rate + head, n)), log_decay + head);
  }
}

// What the heads share of a block's new tokens, to memory.
void PrepareMamba(const MambaCall& call, const BatchSpan& span, const MambaTokens& at) {
  const Mamba2Shape& s = call.shape;
  const Mamba2TokenLayout layout(s);
  const ConvInput conv = MambaConv(call, span);
  const int padded = PadTo16(s.state_size);
  const auto memory = [&](int t) { return call.Memory(span.first_token + at.t + t - at.slot); };
  for (int t = at.slot; t < at.end(); ++t) {
    float* row = memory(t);
    FillDecays(call, span.first_token + at.t + t - at.slot, row + layout.dt,
               row + layout.log_decay);
    for (int group = 0; group < s.num_groups; ++group) {
      float *b = row + layout.b + group * padded, *c = row + layout.c + group * padded;
      for (int i = 0; i < padded; i += 16) {
        const int n = s.state_size - i, token = at.t + t - at.slot;
        Store(ShortConv16(conv, token, call.b_channel(group) + i, n), b + i);
        Store(ShortConv16(conv, token, call.c_channel(group) + i, n), c + i);
      }
    }
  }
  for (int group = 0; group < s.num_groups; ++group) {
    const float* earlier = call.Tail(span) + static_cast<size_t>(group) * kBlockTokens * padded;
    for (int t = at.slot; t < at.end(); ++t) {
      float* row = memory(t);
      const float* c = row + layout.c + group * padded;
      for (int r = 0; r <= t; ++r) {
        const float* b = r < at.slot ? earlier + r * padded : memory(r) + layout.b + group * padded;
        row[layout.dots + group * kBlockTokens + r] = Dot(c, b, padded);
      }
    }
  }
}

// How many vectors of a row of S are read at once for `rows` tokens: as the registers allow.
constexpr int MambaWidth(int rows) {
  return std::clamp((HWY_TARGET == HWY_AVX3 ? 16 : 8) / (rows * kVecs), 1, 4);
}

// columns(d, width) for all vectors d of a row of `padded` floats, `width` of them side by side.
template <int kWidth, class Columns>
HWY_INLINE void ForColumns(int padded, const Columns& columns) {
  int d = 0;
  for (; d + kWidth * 16 <= padded; d += kWidth * 16) {
    columns(d, std::integral_constant<int, kWidth>());
  }
  if constexpr (kWidth > 2) {
    for (; d + 32 <= padded; d += 32) columns(d, std::integral_constant<int, 2>());
  }
  for (; d < padded; d += 16) columns(d, std::integral_constant<int, 1>());
}

// out_r (padded) = c_r S for kRows tokens, each sum in order of the state channel.
template <int kRows>
HWY_INLINE void ReadMambaState(const float* const* c, const float* state, int state_size,
                               int padded, float* const* out) {
  ForColumns<MambaWidth(kRows)>(padded, [&](int d, auto width) HWY_ATTR {
    constexpr int kWidth = decltype(width)::value;
    V16 sum[kRows][kWidth];
    for (int r = 0; r < kRows; ++r) {
      for (int j = 0; j < kWidth; ++j) sum[r][j] = Zero();
    }
    const float* line = state + d;
    for (int i = 0; i < state_size; ++i, line += padded) {
      V16 row[kWidth];
      for (int j = 0; j < kWidth; ++j) row[j] = Load(line + j * 16);
      for (int r = 0; r < kRows; ++r) {
        const V16 weight = Set(c[r][i]);
        for (int j = 0; j < kWidth; ++j) sum[r][j] = MulAdd(weight, row[j], sum[r][j]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int j = 0; j < kWidth; ++j) Store(sum[r][j], out[r] + d + j * 16);
    }
  });
}

// How far a block's tokens have decayed, as logarithms: since[s] is the sum over (s, t],
// `all` that over [0, t]. Each is summed by itself rather than taken as a difference of sums since
// the block's start: after a large step, those no longer hold the small ones.
struct MambaDecays {
  HWY_ALIGN float since[kBlockTokens] = {};
  float all = 0.0f;
  HWY_INLINE void Advance(int t, float log_decay) {
    HWY_ALIGN static constexpr float kLanes[kBlockTokens] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                             8, 9, 10, 11, 12, 13, 14, 15};
    const V16 more = IfGreater(Set(static_cast<float>(t)), Load(kLanes), Set(log_decay), Zero());
    Store(Add(Load(since), more), since);
    all = t > 0 ? all + log_decay : log_decay;
  }
  HWY_INLINE void Exponentials(float* c, float* decay) const {
    HWY_ALIGN float lanes[16];
    Store(Exp(Load(since)), c);
    Store(Exp(Set(all)), lanes);
    *decay = lanes[0];
  }
};

// The sealed state after the block whose sixteen tokens fill u; b[s] is B of token s.
void SealMamba(bool sealed, const MambaDecays& decays, const float* const* b, const float* u,
               int state_padded, int padded, const float* in, float* out) {
  HWY_ALIGN float c[kBlockTokens];
  float decay;
  decays.Exponentials(c, &decay);
  constexpr int kRows = HWY_TARGET == HWY_SSE4 ? 2 : 4;  // Rows of S that share a load of u.
  for (int i = 0; i < state_padded; i += kRows) {
    HWY_ALIGN float weight[kBlockTokens * kRows];
    for (int s = 0; s < kBlockTokens; ++s) {
      for (int r = 0; r < kRows; ++r) weight[s * kRows + r] = c[s] * b[s][i + r];
    }
    ForColumns<MambaWidth(kRows)>(padded, [&](int d, auto width) HWY_ATTR {
      constexpr int kWidth = decltype(width)::value;
      const ptrdiff_t at = static_cast<ptrdiff_t>(i) * padded + d;
      V16 sum[kRows][kWidth];
      for (int r = 0; r < kRows; ++r) {
        for (int j = 0; j < kWidth; ++j) {
          sum[r][j] = sealed ? Mul(Load(in + at + r * padded + j * 16), Set(decay)) : Zero();
        }
      }
      for (int s = 0; s < kBlockTokens; ++s) {
        V16 row[kWidth];
        for (int j = 0; j < kWidth; ++j) row[j] = Load(u + s * padded + d + j * 16);
        for (int r = 0; r < kRows; ++r) {
          const V16 factor = Set(weight[s * kRows + r]);
          for (int j = 0; j < kWidth; ++j) sum[r][j] = MulAdd(factor, row[j], sum[r][j]);
        }
      }
      for (int r = 0; r < kRows; ++r) {
        for (int j = 0; j < kWidth; ++j) Store(sum[r][j], out + at + r * padded + j * 16);
      }
    });
  }
}

// C S of the block's new tokens, to out (16, padded); `rows` are their memory.
void ReadSealed(const MambaCall& call, int group, const MambaTokens& at, float* const* rows,
                const float* state, float* out) {
  const int padded = PadTo16(call.shape.head_dim), size = call.shape.state_size;
  const size_t c = Mamba2TokenLayout(call.shape).c + group * PadTo16(size);
  constexpr int kTokens = HWY_TARGET == HWY_SSE4 ? 2 : 4;
  int t = at.slot;
  for (; t + kTokens <= at.end(); t += kTokens) {
    const float* from[kTokens];
    float* to[kTokens];
    for (int r = 0; r < kTokens; ++r) from[r] = rows[t + r] + c, to[r] = out + (t + r) * padded;
    ReadMambaState<kTokens>(from, state, size, padded, to);
  }
  for (; t < at.end(); ++t) {
    const float* from[] = {rows[t] + c};
    float* to[] = {out + t * padded};
    ReadMambaState<1>(from, state, size, padded, to);
  }
}

// All tokens of a span for one head, block by block: y to memory, u and decays to the tail, and the
// sealed state.
void ScanMamba(const MambaCall& call, const BatchSpan& span, int head, float* scratch) {
  const Mamba2Shape& s = call.shape;
  const Mamba2TokenLayout layout(s);
  const Mamba2TailLayout tail_layout(s);
  const int group = head / (s.num_heads / s.num_groups), dim = s.head_dim;
  const int padded = PadTo16(dim), state_padded = PadTo16(s.state_size);
  float* tail = call.Tail(span);
  const float* tail_b = tail + static_cast<size_t>(group) * kBlockTokens * state_padded;
  float* u = tail + tail_layout.u + static_cast<size_t>(head) * kBlockTokens * padded;
  float* log_decay = tail + tail_layout.log_decay + head * kBlockTokens;
  float *x = scratch, *read = scratch + kBlockTokens * padded;
  const ConvInput conv = MambaConv(call, span);
  const size_t state = head * Mamba2HeadFloats(s);
  const float* in = call.Slot(span.slot_in) + state;
  float* out = call.Slot(span.slot_out) + state;
  const V16 skip = Set(call.weights.skip[head]);
  const float* b[kBlockTokens];  // Of the block's tokens.
  float* rows[kBlockTokens];     // Memory of those that are new.
  for (int r = 0; r < kBlockTokens; ++r) b[r] = tail_b + r * state_padded;
  for (int first = 0; first < span.num_tokens;) {
    const MambaTokens at(span, first);
    const bool sealed = span.position + first >= kBlockTokens;
    for (int t = at.slot; t < at.end(); ++t) {
      const int token = first + t - at.slot;
      rows[t] = call.Memory(span.first_token + token);
      b[t] = rows[t] + layout.b + group * state_padded;
      log_decay[t] = rows[t][layout.log_decay + head];
      const V16 dt = Set(rows[t][layout.dt + head]);
      for (int d = 0; d < padded; d += 16) {
        const V16 v = ShortConv16(conv, token, head * dim + d, dim - d);
        Store(v, x + t * padded + d);
        Store(Mul(dt, v), u + t * padded + d);
      }
    }
    if (sealed) ReadSealed(call, group, at, rows, in, read);
    MambaDecays decays;
    for (int t = 0; t < at.slot; ++t) decays.Advance(t, log_decay[t]);
    for (int t = at.slot; t < at.end(); ++t) {
      HWY_ALIGN float c[kBlockTokens];
      float decay;
      decays.Advance(t, log_decay[t]);
      decays.Exponentials(c, &decay);
      const float* dots = rows[t] + layout.dots + group * kBlockTokens;
      for (int r = 0; r <= t; ++r) c[r] *= dots[r];
      for (int d = 0; d < padded; d += 16) {
        V16 sum = sealed ? Mul(Load(read + t * padded + d), Set(decay)) : Zero();
        for (int r = 0; r <= t; ++r) sum = MulAdd(Set(c[r]), Load(u + r * padded + d), sum);
        sum = MulAdd(skip, Load(x + t * padded + d), sum);
        StoreFirst(sum, dim - d, rows[t] + layout.y + head * dim + d);
      }
    }
    if (at.end() == kBlockTokens) {
      SealMamba(sealed, decays, b, u, state_padded, padded, in, out);
      in = out;
    }
    first += at.n;
  }
  if (s.conv_size > 1) {
    KeepConvInput(conv, span.num_tokens, head * dim, dim, tail + tail_layout.conv);
  }
}

// Gate and norm of a token's y; false if an output is not finite.
bool FinishToken(const MambaCall& call, int token) {
  const Mamba2Weights& w = call.weights;
  const int values = call.shape.values();
  float* y = call.Memory(token) + Mamba2TokenLayout(call.shape).y;
  const float* z =
      static_cast<const float*>(call.x.gate) + static_cast<ptrdiff_t>(token) * call.x.stride;
  float* out = static_cast<float*>(call.x.out) + static_cast<ptrdiff_t>(token) * values;
  const auto gate = [&](int channel, int n) HWY_ATTR {
    return Silu(Mul(LoadFirst(z + channel, n), Set(w.gate_scale)));
  };
  const bool normed = w.gating != Mamba2Norm::kNone;
  const bool gated_last = w.gating == Mamba2Norm::kBeforeGate;
  const int width = normed ? values / w.norm_groups : values;
  V16 finite = Zero();  // 0 * y is 0 for finite y and NaN otherwise.
  for (int first = 0; first < values; first += width) {
    V16 squares = Zero();
    for (int d = first; d < first + width; d += 16) {
      const int n = first + width - d;
      V16 v = LoadFirst(y + d, n);
      if (!gated_last) {
        v = Mul(v, gate(d, n));
        StoreFirst(v, n, y + d);
      }
      squares = MulAdd(v, v, squares);
    }
    const float mean = SumLanes(squares) / static_cast<float>(width);
    const V16 scale = Set(1.0f / std::sqrt(mean + w.norm_eps));
    for (int d = first; d < first + width; d += 16) {
      const int n = first + width - d;
      V16 v = LoadFirst(y + d, n);
      if (normed) v = Mul(Mul(v, scale), LoadFirst(w.norm + d, n));
      if (gated_last) v = Mul(v, gate(d, n));
      StoreFirst(v, n, out + d);
      finite = MulAdd(v, Zero(), finite);
    }
  }
  return SumLanes(finite) == 0.0f;
}

// Outputs of a block's new tokens, and after a span's last block what its tail keeps for all heads.
void FinishMamba(const MambaCall& call, int span_index, const MambaTokens& at) {
  const BatchSpan& span = call.batch.spans[span_index];
  bool finite = true;
  for (int t = at.t; t < at.t + at.n; ++t) finite &= FinishToken(call, span.first_token + t);
  if (!finite) __atomic_store_n(&call.totals[span_index].not_finite, 1u, __ATOMIC_RELAXED);
  if (at.t + at.n < span.num_tokens) return;
  const Mamba2Shape& s = call.shape;
  const int padded = PadTo16(s.state_size);
  float* tail = call.Tail(span);
  for (int group = 0; group < s.num_groups; ++group) {
    float* to = tail + static_cast<size_t>(group) * kBlockTokens * padded;
    for (int t = at.slot; t < at.end(); ++t) {
      const float* row = call.Memory(span.first_token + at.t + t - at.slot);
      std::copy_n(row + Mamba2TokenLayout(s).b + group * padded, padded, to + t * padded);
    }
  }
  if (s.conv_size > 1) {
    KeepConvInput(MambaConv(call, span), span.num_tokens, s.values(), 2 * s.keys(),
                  tail + Mamba2TailLayout(s).conv);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace packrat {

HWY_EXPORT(PrepareMamba);
HWY_EXPORT(ScanMamba);
HWY_EXPORT(FinishMamba);

namespace {

// run(span, block) for every block that begins in one of `rows` consecutive rows of the batch, of
// which number `task` is the first.
template <class Run>
void ForBlocks(const BatchView& batch, int begin, int rows, const Run& run) {
  const int end = begin + rows;
  for (int i = 0; i < batch.num_spans; ++i) {
    const BatchSpan& span = batch.spans[i];
    if (span.first_token >= end || span.first_token + span.num_tokens <= begin) continue;
    for (int t = 0; t < span.num_tokens && span.first_token + t < end;) {
      const MambaTokens at(span, t);
      if (span.first_token + t >= begin) run(i, at);
      t += at.n;
    }
  }
}

}  // namespace

// Three passes: what the heads of a token share, by blocks; the heads, each by itself; and gate and
// norm, which see all heads of a token, by blocks.
absl::Status Mamba2(const Mamba2Shape& shape, const Mamba2Weights& weights, const BatchView& batch,
                    const StateParts& slots, const StateParts& tails,
                    const Mamba2Operands& operands, SpanTotals* totals, KernelContext* context) {
  PACKRAT_CHECK(operands.type == DType::kF32 && operands.state_type == DType::kF32);
  const MambaCall call{shape, weights, batch, slots, tails, operands, totals};
  // Four tasks to a thread, so that none waits long for another's last.
  const int rows = std::clamp(batch.num_tokens / (4 * context->pool.size()), 1, kBlockTokens);
  const int64_t tasks = (batch.num_tokens + rows - 1) / rows;
  context->pool.Run(tasks, [&](int64_t task, int) {
    ForBlocks(batch, static_cast<int>(task) * rows, rows, [&](int span, const MambaTokens& at) {
      HWY_DYNAMIC_DISPATCH(PrepareMamba)(call, batch.spans[span], at);
    });
  });
  context->pool.Run(
      static_cast<int64_t>(batch.num_spans) * shape.num_heads, [&](int64_t task, int worker) {
        const BatchSpan& span = batch.spans[task / shape.num_heads];
        if (span.num_tokens == 0) return;
        HWY_DYNAMIC_DISPATCH(ScanMamba)
        (call, span, static_cast<int>(task % shape.num_heads), context->scratch(worker));
      });
  context->pool.Run(tasks, [&](int64_t task, int) {
    ForBlocks(batch, static_cast<int>(task) * rows, rows, [&](int span, const MambaTokens& at) {
      HWY_DYNAMIC_DISPATCH(FinishMamba)(call, span, at);
    });
  });
  return absl::OkStatus();
}

}  // namespace packrat
#endif  // HWY_ONCE
