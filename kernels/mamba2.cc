#include "kernels/mamba2.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/matmul_kernel.h"
#include "kernels/paired_state.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/mamba2.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/block_state-inl.h"
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
  bool paired;  // S is as kernels/paired_state.h says.
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
  }
  for (int group = 0; group < s.num_groups; ++group) {
    const size_t at_b = layout.b + static_cast<size_t>(group) * padded;
    const size_t at_c = layout.c + static_cast<size_t>(group) * padded;
    const auto stride = static_cast<ptrdiff_t>(layout.end);
    float* first = memory(at.slot);
    ShortConvTokens(conv, at.t, at.n, call.b_channel(group), s.state_size, first + at_b, stride);
    ShortConvTokens(conv, at.t, at.n, call.c_channel(group), s.state_size, first + at_c, stride);
    const float* earlier = call.Tail(span) + static_cast<size_t>(group) * kBlockTokens * padded;
    const float* rows[kBlockTokens];
    for (int r = 0; r < at.end(); ++r) {
      rows[r] = r < at.slot ? earlier + r * padded : memory(r) + at_b;
    }
    for (int t = at.slot; t < at.end(); ++t) {
      float* c = memory(t) + at_c;
      float* dots = memory(t) + layout.dots + group * kBlockTokens;
      BlockDots<1>(&c, rows, t + 1, padded, &dots);
      if (call.paired) RoundToPairs(c, padded, c);  // As it is read from now on.
    }
  }
}

// One head of a span.
struct MambaHead {
  const MambaCall& call;
  const BatchSpan& span;
  const Mamba2TokenLayout layout;
  int head, group, dim, padded, state_padded;
  float *history, *u, *log_decay;  // Tail: what the convolution keeps, and the head's rows.
  float *x, *read;                 // Scratch (16, padded): the convolution's x, and C S.
  ConvInput conv;
  const float* b[kBlockTokens];  // B of the block's tokens.
  float* rows[kBlockTokens];     // Memory of those that are new.

  MambaHead(const MambaCall& c, const BatchSpan& sp, int j, float* scratch)
      : call(c),
        span(sp),
        layout(c.shape),
        head(j),
        group(j / (c.shape.num_heads / c.shape.num_groups)),
        dim(c.shape.head_dim),
        padded(PadTo16(dim)),
        state_padded(PadTo16(c.shape.state_size)),
        x(scratch),
        read(scratch + kBlockTokens * padded),
        conv(MambaConv(c, sp)) {
    const Mamba2TailLayout tail_layout(c.shape);
    float* tail = c.Tail(sp);
    history = tail + tail_layout.conv;
    u = tail + tail_layout.u + static_cast<size_t>(j) * kBlockTokens * padded;
    log_decay = tail + tail_layout.log_decay + j * kBlockTokens;
    const float* tail_b = tail + static_cast<size_t>(group) * kBlockTokens * state_padded;
    for (int r = 0; r < kBlockTokens; ++r) b[r] = tail_b + r * state_padded;
  }
};

// What a block's new tokens bring.
void FillTokens(MambaHead* h, const MambaTokens& at) {
  // Copies, where the compiler need not expect a store to them.
  const ConvInput conv = h->conv;
  const int padded = h->padded;
  float *x = h->x, *u = h->u;
  for (int t = at.slot; t < at.end(); ++t) {
    const int token = at.t + t - at.slot;
    float* row = h->rows[t] = h->call.Memory(h->span.first_token + token);
    h->b[t] = row + h->layout.b + h->group * h->state_padded;
    h->log_decay[t] = row[h->layout.log_decay + h->head];
  }
  ShortConvTokens(conv, at.t, at.n, h->head * h->dim, h->dim, x + at.slot * padded, padded);
  for (int t = at.slot; t < at.end(); ++t) {
    const V16 dt = Set(h->rows[t][h->layout.dt + h->head]);
    for (int d = 0; d < padded; d += 16) {
      Store(Mul(dt, Load(x + t * padded + d)), u + t * padded + d);
    }
  }
}

// C S of the block's new tokens.
void ReadSealed(const MambaHead& h, const MambaTokens& at, const float* state) {
  const int size = h.call.shape.state_size;
  const size_t c = h.layout.c + h.group * h.state_padded;
  if (h.call.paired) {
    return ReadPairedState(h.rows[at.slot] + c, static_cast<ptrdiff_t>(h.layout.end), at.n, state,
                           (size + 1) / 2, h.padded, h.read + at.slot * h.padded, h.padded);
  }
  constexpr int kTokens = HWY_TARGET == HWY_SSE4 ? 2 : 4;
  int t = at.slot;
  for (; t + kTokens <= at.end(); t += kTokens) {
    const float* from[kTokens];
    float* to[kTokens];
    for (int r = 0; r < kTokens; ++r) {
      from[r] = h.rows[t + r] + c, to[r] = h.read + (t + r) * h.padded;
    }
    ReadState<kTokens>(from, state, size, h.padded, to);
  }
  for (; t < at.end(); ++t) {
    const float* from[] = {h.rows[t] + c};
    float* to[] = {h.read + t * h.padded};
    ReadState<1>(from, state, size, h.padded, to);
  }
}

// y of the block's new tokens, to memory. c: how far the block's tokens have decayed at its last.
void WriteOutputs(const MambaHead& h, const MambaTokens& at, bool sealed, const float* decay,
                  float* c) {
  const V16 skip = Set(h.call.weights.skip[h.head]);
  const int padded = h.padded, dim = h.dim;  // As in FillTokens().
  const float *u = h.u, *x = h.x, *read = h.read;
  BlockDecays decays;
  for (int t = 0; t < at.slot; ++t) decays.Advance(t, h.log_decay[t]);
  for (int t = at.slot; t < at.end(); ++t) {
    HWY_ALIGN float weights[kBlockTokens];
    decays.Advance(t, h.log_decay[t]);
    Store(Exp(Load(decays.since)), c);
    Store(Mul(Load(c), Load(h.rows[t] + h.layout.dots + h.group * kBlockTokens)), weights);
    float* y = h.rows[t] + h.layout.y + h.head * dim;
    ForColumns<StateWidth(1)>(padded, [&](int d, auto width) HWY_ATTR {
      constexpr int kWidth = decltype(width)::value;
      const int own = t * padded + d;
      V16 sum[kWidth];
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j) {
        sum[j] = sealed ? Mul(Load(read + own + j * 16), Set(decay[t])) : Zero();
      }
      const float* row = u + d;
      for (int r = 0; r <= t; ++r, row += padded) {
        const V16 weight = Set(weights[r]);
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) sum[j] = MulAdd(weight, Load(row + j * 16), sum[j]);
      }
      for (int j = 0; j < kWidth; ++j) {
        StoreFirst(MulAdd(skip, Load(x + own + j * 16), sum[j]), dim - d - j * 16, y + d + j * 16);
      }
    });
  }
}

// All tokens of a span for one head, block by block: y to memory, u and decays to the tail, and the
// sealed state.
void ScanMamba(const MambaCall& call, const BatchSpan& span, int head, float* scratch) {
  MambaHead h(call, span, head, scratch);
  const size_t head_floats = Mamba2HeadFloats(call.shape);
  const size_t state = call.paired ? head * head_floats / 2 : head * head_floats;
  const float* in = call.Slot(span.slot_in) + state;
  float* out = call.Slot(span.slot_out) + state;
  for (int first = 0; first < span.num_tokens;) {
    const MambaTokens at(span, first);
    const bool sealed = span.position + first >= kBlockTokens;
    FillTokens(&h, at);
    if (sealed) ReadSealed(h, at, in);
    HWY_ALIGN float decay[kBlockTokens], c[kBlockTokens];
    DecaysFromStart(h.log_decay, at.end(), decay);
    WriteOutputs(h, at, sealed, decay, c);
    if (at.end() == kBlockTokens) {
      const float all = decay[kBlockTokens - 1];
      if (call.paired) {
        SealPairedState(sealed, all, c, h.b, h.u, h.state_padded, h.padded, in, out,
                        static_cast<ptrdiff_t>(call.shape.num_heads * head_floats / 2));
      } else {
        SealState(sealed, all, c, h.b, h.u, h.state_padded, h.padded, in, out);
      }
      in = out;
    }
    first += at.n;
  }
  if (call.shape.conv_size > 1) {
    KeepConvInput(h.conv, span.num_tokens, head * h.dim, h.dim, h.history);
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

// Three passes: what the heads of a token share, by blocks; the heads, each by itself; and gate and
// norm, which see all heads of a token, by blocks.
absl::Status RunMamba(const MambaCall& call, KernelContext* context) {
  const Mamba2Shape& shape = call.shape;
  const BatchView& batch = call.batch;
  PACKRAT_CHECK(call.x.type == DType::kF32 && call.x.state_type == DType::kF32);
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

}  // namespace

absl::Status Mamba2(const Mamba2Shape& shape, const Mamba2Weights& weights, const BatchView& batch,
                    const StateParts& slots, const StateParts& tails,
                    const Mamba2Operands& operands, SpanTotals* totals, KernelContext* context) {
  return RunMamba({shape, weights, batch, slots, tails, operands, /*paired=*/false, totals},
                  context);
}

absl::Status Mamba2InBFloat16(const Mamba2Shape& shape, const Mamba2Weights& weights,
                              const BatchView& batch, const StateParts& slots,
                              const StateParts& tails, const Mamba2Operands& operands,
                              SpanTotals* totals, KernelContext* context) {
  return RunMamba({shape, weights, batch, slots, tails, operands, /*paired=*/true, totals},
                  context);
}

}  // namespace packrat
#endif  // HWY_ONCE
