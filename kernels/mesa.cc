#include "kernels/mesa.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/mesa.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/mesa_solve-inl.h"
#include "kernels/short_conv-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

// One head of one span.
struct Head {
  const MesaShape& shape;
  const MesaWeights& weights;
  const BatchSpan& span;
  const MesaOperands& x;
  int index, dim, padded;
  float *k, *v, *beta, *log_gamma;  // Tail, this head's part.
  float *history_q, *history_k;     // Tail, of all heads.
  ConvInput conv_q, conv_k;

  Head(const MesaShape& s, const MesaWeights& w, const BatchSpan& sp, float* tail,
       const MesaOperands& o, int head)
      : shape(s),
        weights(w),
        span(sp),
        x(o),
        index(head),
        dim(s.head_dim),
        padded(PadTo16(s.head_dim)) {
    const MesaTailLayout layout(s.num_heads, s.head_dim, s.conv_size);
    k = tail + layout.k + static_cast<size_t>(head) * 16 * padded;
    v = tail + layout.v + static_cast<size_t>(head) * 16 * padded;
    beta = tail + layout.beta + head * 16;
    log_gamma = tail + layout.log_gamma + head * 16;
    history_q = tail + layout.conv_q;
    history_k = tail + layout.conv_k;
    conv_q = {Row(x.q, 0),   x.stride,      history_q,   w.conv_q,
              w.conv_q_bias, shape.width(), s.conv_size, span.position};
    conv_k = {Row(x.k, 0),   x.stride,      history_k,   w.conv_k,
              w.conv_k_bias, shape.width(), s.conv_size, span.position};
  }
  // Token t of the span, of all heads, in q, k, v or the gate.
  const float* Row(const void* rows, int t) const {
    return static_cast<const float*>(rows) +
           static_cast<ptrdiff_t>(span.first_token + t) * x.stride;
  }
  int channel() const { return index * dim; }  // The head's first.
};

// log(sigmoid(a)), without overflow.
float LogSigmoid(float a) { return std::fmin(a, 0.0f) - std::log1p(std::exp(-std::fabs(a))); }

// Rows of the tail for tokens [t, t + n), which lie at `slot` of their block, and their q (n, P).
void FillTail(const Head& h, int t, int n, int slot, float* q) {
  ShortConvUnits(h.conv_q, t, n, h.channel(), h.dim, 1.0f, q, h.padded);
  ShortConvUnits(h.conv_k, t, n, h.channel(), h.dim, 1.0f, h.k + slot * h.padded, h.padded);
  for (int i = 0; i < n; ++i) {
    float* v = h.v + (slot + i) * h.padded;
    const float* value = h.Row(h.x.v, t + i) + h.channel();
    for (int d = 0; d < h.padded; d += 16) Store(LoadFirst(value + d, h.dim - d), v + d);
    const ptrdiff_t at =
        static_cast<ptrdiff_t>(h.span.first_token + t + i) * h.x.scalar_stride + h.index;
    h.beta[slot + i] = 1.0f / (1.0f + std::exp(-h.x.beta[at]));
    h.log_gamma[slot + i] = LogSigmoid(h.x.gamma[at]);
  }
}

// c[s] = exp(G_t - G_s) beta_s for s <= t, zero beyond; cumulative (16): G.
V16 Coefficients(const Head& h, const float* cumulative, int t) {
  HWY_ALIGN float difference[16], beta[16];
  for (int s = 0; s < 16; ++s) {
    difference[s] = s <= t ? cumulative[t] - cumulative[s] : 0.0f;
    beta[s] = s <= t ? h.beta[s] : 0.0f;
  }
  return Mul(Exp(Load(difference)), Load(beta));
}

// H_kk (blocks of the lower triangle) to a full (P, P) matrix.
void Unfold(const float* blocks, int padded, float* full) {
  for (int i = 0; i < padded; i += 16) {
    for (int j = 0; j <= i; j += 16, blocks += 256) {
      for (int r = 0; r < 16; ++r) {
        float* row = full + static_cast<size_t>(i + r) * padded + j;
        if (i != j) {
          Store(Load(blocks + r * 16), row);
        } else {
          for (int c = 0; c <= r; ++c) {
            row[c] = blocks[r * 16 + c];
            full[(j + c) * padded + i + r] = blocks[r * 16 + c];
          }
        }
      }
      if (i != j) ColumnsToRows(blocks, 16, 16, full + j * padded + i, padded);
    }
  }
}

// out = decay * in + sum_s left_s right_s' on a 16 x 16 tile with row stride `stride`; left, right:
// rows of the tile's channels, P apart.
HWY_INLINE void UpdateTile(int padded, bool sealed, const float* in, ptrdiff_t stride, float decay,
                           const float* left, const float* right, float* out) {
  for (int first = 0; first < 16; first += kAccumulators) {
    V16 sum[kAccumulators];
#pragma GCC unroll 16
    for (int r = 0; r < kAccumulators; ++r) {
      sum[r] = sealed ? Mul(Load(in + (first + r) * stride), Set(decay)) : Zero();
    }
    for (int s = 0; s < kBlockTokens; ++s) {
      const V16 columns = Load(right + s * padded);
#pragma GCC unroll 16
      for (int r = 0; r < kAccumulators; ++r) {
        sum[r] = MulAdd(Set(left[s * padded + first + r]), columns, sum[r]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kAccumulators; ++r) Store(sum[r], out + (first + r) * stride);
  }
}

// The sealed state after the block whose sixteen tokens fill the tail. weighted: (16, P) of
// scratch, C_s k_s.
void Seal(const Head& h, bool sealed, const float* cumulative, const float* in, float* out,
          float* weighted) {
  const int padded = h.padded;
  HWY_ALIGN float c[16], decay[16];
  Store(Coefficients(h, cumulative, kBlockTokens - 1), c);
  Store(Exp(Set(cumulative[kBlockTokens - 1])), decay);
  for (int s = 0; s < kBlockTokens; ++s) {
    for (int i = s * padded; i < (s + 1) * padded; i += 16) {
      Store(Mul(Set(c[s]), Load(h.k + i)), weighted + i);
    }
  }
  for (int i = 0; i < padded; i += 16) {
    for (int j = 0; j <= i; j += 16, in += 256, out += 256) {
      UpdateTile(padded, sealed, in, 16, decay[0], weighted + i, h.k + j, out);
    }
  }
  for (int i = 0; i < padded; i += 16) {
    for (int j = 0; j < padded; j += 16) {
      const ptrdiff_t at = static_cast<ptrdiff_t>(i) * padded + j;
      UpdateTile(padded, sealed, in + at, padded, decay[0], weighted + i, h.v + j, out + at);
    }
  }
}

// What the solves of one head of a span report.
struct Solves {
  int64_t steps = 0, unconverged = 0;
  float max_residual = 0.0f;  // Relative, as the iteration carries it; NaN if any was.
  bool finite = true;         // All outputs are.
};

// Output norm and gate of token t: o (P) to the operand's row.
void Finish(const Head& h, const float* o, int t, Solves* solves) {
  V16 sum = Zero();
  for (int d = 0; d < h.padded; d += 16) sum = MulAdd(Load(o + d), Load(o + d), sum);
  const float mean = SumLanes(sum) / static_cast<float>(h.dim);
  const V16 scale = Set(1.0f / std::sqrt(mean + h.weights.norm_eps));
  V16 finite = Zero();  // 0 * y is 0 for finite y and NaN otherwise.
  float* out = static_cast<float*>(h.x.out) +
               static_cast<ptrdiff_t>(h.span.first_token + t) * h.shape.width() + h.channel();
  for (int d = 0; d < h.padded; d += 16) {
    const int n = h.dim - d;
    V16 y = Mul(Mul(Load(o + d), scale), LoadFirst(h.weights.o_norm + d, n));
    if (h.x.gate != nullptr) {
      y = Mul(y, Silu(LoadFirst(h.Row(h.x.gate, t) + h.channel() + d, n)));
    }
    StoreFirst(y, n, out + d);
    finite = MulAdd(y, Zero(), finite);
  }
  if (SumLanes(finite) != 0.0f) solves->finite = false;
}

void Record(const Block& b, int steps, float squared_residual, Solves* solves) {
  const float residual = std::sqrt(squared_residual);
  solves->steps += steps;
  if (!(residual <= b.tolerance)) ++solves->unconverged;
  // Once it is a NaN, it stays one.
  if (residual > solves->max_residual || std::isnan(residual)) solves->max_residual = residual;
}

// Solves and reads out tokens [t, t + n) of the rows, the block's first n systems.
void SolveTokens(const Head& h, const Block& b, int t, int n, const float* q, float* scratch,
                 Solves* solves) {
  constexpr int kAll[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  float* x = scratch;
  float* o = x + 16 * h.padded;
  int steps[16];
  float residual[16];
  Solve(b, n, q, x, o + 16 * h.padded, steps, residual);
  Read(b, b.hkv, b.v, kAll, n, x, o);
  for (int i = 0; i < n; ++i) {
    Record(b, steps[i], residual[i], solves);
    Finish(h, o + i * h.padded, t + i, solves);
  }
}

// Other heads of the span add to the same totals.
void AddTo(SpanTotals* totals, int num_solves, const Solves& solves) {
  const auto add = [](auto* sum, auto x) { __atomic_fetch_add(sum, x, __ATOMIC_RELAXED); };
  add(&totals->solver_solves, num_solves);
  add(&totals->solver_steps, solves.steps);
  add(&totals->solver_unconverged, solves.unconverged);
  unsigned bits;
  std::memcpy(&bits, &solves.max_residual, sizeof bits);
  bits &= 0x7fffffffu;  // A NaN has any sign.
  unsigned seen = __atomic_load_n(&totals->max_residual_bits, __ATOMIC_RELAXED);
  while (seen < bits && !__atomic_compare_exchange_n(&totals->max_residual_bits, &seen, bits, true,
                                                     __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  if (!solves.finite || !std::isfinite(solves.max_residual)) {
    __atomic_store_n(&totals->not_finite, 1u, __ATOMIC_RELAXED);
  }
}

// All tokens of a span for one head, block by block.
void MesaSpanHead(const MesaShape& shape, const MesaWeights& weights, const BatchSpan& span,
                  const StateParts& slots, const StateParts& tails, const MesaOperands& x, int head,
                  float* scratch, SpanTotals* totals) {
  const auto part = [](const StateParts& parts, int i) {
    return reinterpret_cast<float*>(parts.base + i * parts.stride);
  };
  const Head h(shape, weights, span, part(tails, span.tail), x, head);
  const int padded = h.padded;
  float* full = scratch;                                   // (P, P)
  float* q = full + static_cast<size_t>(padded) * padded;  // (16, P)
  float* k_columns = q + 16 * padded;                      // (P, 16)
  float* lambda = k_columns + 16 * padded;                 // (P)
  float* rest = lambda + padded;
  std::fill(lambda, lambda + padded, 1.0f);
  std::copy_n(weights.lambda + head * h.dim, h.dim, lambda);

  Solves solves;
  const float* sealed_in = part(slots, span.slot_in) + head * MesaHeadFloats(h.dim);
  float* sealed_out = part(slots, span.slot_out) + head * MesaHeadFloats(h.dim);
  bool unfolded = false;
  for (int t = 0, n; t < span.num_tokens; t += n) {
    const int position = span.position + t, slot = position % kBlockTokens;
    n = std::min(kBlockTokens - slot, span.num_tokens - t);
    const bool sealed = position >= kBlockTokens;
    FillTail(h, t, n, slot, q);
    const int tokens = slot + n;
    RowsToColumns(h.k, padded, tokens, padded, k_columns);
    HWY_ALIGN float cumulative[16] = {};
    for (int s = 0; s < tokens; ++s) {
      cumulative[s] = (s > 0 ? cumulative[s - 1] : 0.0f) + h.log_gamma[s];
    }
    if (sealed && !unfolded) Unfold(sealed_in, padded, full);
    unfolded = true;
    HWY_ALIGN float decay[16] = {}, c[256];
    for (int i = 0; i < n; ++i) {
      decay[i] = cumulative[slot + i];
      Store(Coefficients(h, cumulative, slot + i), c + i * 16);
    }
    Store(Exp(Load(decay)), decay);
    const Block block{padded,
                      tokens,
                      sealed,
                      full,
                      sealed_in + MesaHkkFloats(h.dim),
                      h.k,
                      h.v,
                      k_columns,
                      lambda,
                      decay,
                      c,
                      span.solver.cg_tolerance,
                      span.solver.cg_max_steps};
    SolveTokens(h, block, t, n, q, rest, &solves);
    if (tokens == kBlockTokens) {
      Seal(h, sealed, cumulative, sealed_in, sealed_out, rest);
      sealed_in = sealed_out;
      unfolded = false;
    }
  }
  if (shape.conv_size > 1) {
    KeepConvInput(h.conv_q, span.num_tokens, h.channel(), h.dim, h.history_q);
    KeepConvInput(h.conv_k, span.num_tokens, h.channel(), h.dim, h.history_k);
  }
  AddTo(totals, span.num_tokens, solves);
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace packrat {

HWY_EXPORT(MesaSpanHead);

absl::Status Mesa(const MesaShape& shape, const MesaWeights& weights, const BatchView& batch,
                  const StateParts& slots, const StateParts& tails, const MesaOperands& operands,
                  SpanTotals* totals, KernelContext* context) {
  PACKRAT_CHECK(operands.type == DType::kF32 && operands.state_type == DType::kF32);
  const auto tasks = static_cast<int64_t>(batch.num_spans) * shape.num_heads;
  context->pool.Run(tasks, [&](int64_t task, int worker) {
    const auto span = static_cast<int>(task / shape.num_heads);
    if (batch.spans[span].num_tokens == 0) return;
    HWY_DYNAMIC_DISPATCH(MesaSpanHead)
    (shape, weights, batch.spans[span], slots, tails, operands,
     static_cast<int>(task % shape.num_heads), context->scratch(worker), &totals[span]);
  });
  return absl::OkStatus();
}

}  // namespace packrat
#endif  // HWY_ONCE
