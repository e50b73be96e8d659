#include "kernels/mesa.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/mesa.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/mesa_solve-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

// One head of one sequence.
struct Head {
  const MesaShape& shape;
  const MesaWeights& weights;
  const MesaSequence& sequence;
  const MesaOperands& x;
  int index, dim, padded;
  float *k, *v, *beta, *log_gamma;  // Tail, this head's part.

  Head(const MesaShape& s, const MesaWeights& w, const MesaSequence& sq, const MesaOperands& o,
       int head)
      : shape(s),
        weights(w),
        sequence(sq),
        x(o),
        index(head),
        dim(s.head_dim),
        padded(PadTo16(s.head_dim)) {
    const MesaTailLayout layout(s.num_heads, s.head_dim, s.conv_size);
    k = sq.tail + layout.k + static_cast<size_t>(head) * 16 * padded;
    v = sq.tail + layout.v + static_cast<size_t>(head) * 16 * padded;
    beta = sq.tail + layout.beta + head * 16;
    log_gamma = sq.tail + layout.log_gamma + head * 16;
  }
  size_t row(int t) const {  // Of token t of the sequence's rows in a (tokens, H * D) operand.
    return static_cast<size_t>(sequence.rows.first_token + t) * shape.width() +
           static_cast<size_t>(index) * dim;
  }
};

// Short convolution, silu and l2 norm of token t (of the rows) into out (P). `history`: this
// layer's rows before the span, (conv_size - 1, H * D).
void Convolve(const Head& h, const float* input, const float* history, const float* taps,
              const float* bias, int t, float* out) {
  const int width = h.shape.width(), conv = h.shape.conv_size, offset = h.index * h.dim;
  V16 norm = Zero();
  for (int d = 0; d < h.padded; d += 16) {
    const int n = h.dim - d;
    V16 sum = bias != nullptr ? LoadFirst(bias + offset + d, n) : Zero();
    for (int tap = 0; tap < conv; ++tap) {
      const int from = t - (conv - 1) + tap, position = h.sequence.rows.position + from;
      if (position < 0) continue;  // Before the text there are zeros.
      const float* row =
          from >= 0 ? input + h.row(from)
                    : history + static_cast<size_t>(position % (conv - 1)) * width + offset;
      sum = MulAdd(LoadFirst(taps + static_cast<size_t>(tap) * width + offset + d, n),
                   LoadFirst(row + d, n), sum);
    }
    const V16 y = Silu(sum);
    norm = MulAdd(y, y, norm);
    Store(y, out + d);
  }
  const V16 scale = Set(1.0f / std::sqrt(SumLanes(norm) + 1e-6f));
  for (int d = 0; d < h.padded; d += 16) Store(Mul(Load(out + d), scale), out + d);
}

// Keeps the convolutions' inputs of the last tokens for the next span.
void KeepHistory(const Head& h, const float* input, float* history) {
  const int keep = h.shape.conv_size - 1;
  const Rows& rows = h.sequence.rows;
  for (int t = std::max(0, rows.num_tokens - keep); t < rows.num_tokens; ++t) {
    const int slot = (rows.position + t) % keep;
    std::copy_n(input + h.row(t), h.dim,
                history + static_cast<size_t>(slot) * h.shape.width() + h.index * h.dim);
  }
}

// log(sigmoid(a)), without overflow.
float LogSigmoid(float a) { return std::fmin(a, 0.0f) - std::log1p(std::exp(-std::fabs(a))); }

// Rows of the tail for tokens [t, t + n), which lie at `slot` of their block, and their q (n, P).
void FillTail(const Head& h, int t, int n, int slot, float* q) {
  const MesaTailLayout layout(h.shape.num_heads, h.dim, h.shape.conv_size);
  const float* history_q = h.sequence.tail + layout.conv_q;
  const float* history_k = h.sequence.tail + layout.conv_k;
  for (int i = 0; i < n; ++i) {
    float *k = h.k + (slot + i) * h.padded, *v = h.v + (slot + i) * h.padded;
    Convolve(h, h.x.q, history_q, h.weights.conv_q, h.weights.conv_q_bias, t + i, q + i * h.padded);
    Convolve(h, h.x.k, history_k, h.weights.conv_k, h.weights.conv_k_bias, t + i, k);
    for (int d = 0; d < h.padded; d += 16) {
      Store(LoadFirst(h.x.v + h.row(t + i) + d, h.dim - d), v + d);
    }
    const size_t at =
        static_cast<size_t>(h.sequence.rows.first_token + t + i) * h.shape.num_heads + h.index;
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
          for (int c = 0; c < 16; ++c) full[(j + c) * padded + i + r] = blocks[r * 16 + c];
        } else {
          for (int c = 0; c <= r; ++c) {
            row[c] = blocks[r * 16 + c];
            full[(j + c) * padded + i + r] = blocks[r * 16 + c];
          }
        }
      }
    }
  }
}

// out = decay * in + sum_s c_s left_s right_s' on a 16 x 16 tile with row stride `stride`.
HWY_INLINE void UpdateTile(const Head& h, bool sealed, const float* in, ptrdiff_t stride,
                           float decay, const float* c, const float* left, const float* right,
                           float* out) {
  for (int r = 0; r < 16; ++r) {
    V16 sum = sealed ? Mul(Load(in + r * stride), Set(decay)) : Zero();
    for (int s = 0; s < kMesaBlock; ++s) {
      sum = MulAdd(Set(c[s] * left[s * h.padded + r]), Load(right + s * h.padded), sum);
    }
    Store(sum, out + r * stride);
  }
}

// The sealed state after the block whose sixteen tokens fill the tail.
void Seal(const Head& h, bool sealed, const float* cumulative, const float* in, float* out) {
  HWY_ALIGN float c[16], decay[16];
  Store(Coefficients(h, cumulative, kMesaBlock - 1), c);
  Store(Exp(Set(cumulative[kMesaBlock - 1])), decay);
  for (int i = 0; i < h.padded; i += 16) {
    for (int j = 0; j <= i; j += 16, in += 256, out += 256) {
      UpdateTile(h, sealed, in, 16, decay[0], c, h.k + i, h.k + j, out);
    }
  }
  for (int i = 0; i < h.padded; i += 16) {
    for (int j = 0; j < h.padded; j += 16) {
      const ptrdiff_t at = static_cast<ptrdiff_t>(i) * h.padded + j;
      UpdateTile(h, sealed, in + at, h.padded, decay[0], c, h.k + i, h.v + j, out + at);
    }
  }
}

// Output norm and gate of token t: o (P) to the operand's row.
void Finish(const Head& h, const float* o, int t) {
  V16 sum = Zero();
  for (int d = 0; d < h.padded; d += 16) sum = MulAdd(Load(o + d), Load(o + d), sum);
  const float mean = SumLanes(sum) / static_cast<float>(h.dim);
  const V16 scale = Set(1.0f / std::sqrt(mean + h.weights.norm_eps));
  for (int d = 0; d < h.padded; d += 16) {
    const int n = h.dim - d;
    V16 y = Mul(Mul(Load(o + d), scale), LoadFirst(h.weights.o_norm + d, n));
    if (h.x.gate != nullptr) y = Mul(y, Silu(LoadFirst(h.x.gate + h.row(t) + d, n)));
    StoreFirst(y, n, h.x.out + h.row(t) + d);
  }
}

void Record(const Block& b, int steps, float squared_residual, MesaSolves* solves) {
  const float residual = std::sqrt(squared_residual);
  solves->steps += steps;
  if (!(residual <= b.tolerance)) ++solves->unconverged;
  // A NaN is taken, and no number replaces it.
  if (residual > solves->max_residual || std::isnan(residual)) solves->max_residual = residual;
}

// Solves and reads out tokens [t, t + n) of the rows, at `slot` of their block.
void SolveTokens(const Head& h, const Block& b, const float* cumulative, int t, int n, int slot,
                 const float* q, float* scratch, MesaSolves* solves) {
  const int padded = h.padded;
  float* x = scratch;
  float* o = x + 16 * padded;
  float* work = o + 16 * padded;
  HWY_ALIGN float decay[16] = {};
  for (int i = 0; i < n; ++i) decay[i] = cumulative[slot + i];
  Store(Exp(Load(decay)), decay);
  // Few systems: one at a time costs less than sixteen lanes of which most are empty.
  if (n <= 3) {
    for (int i = 0; i < n; ++i) {
      HWY_ALIGN float c[16];
      Store(Coefficients(h, cumulative, slot + i), c);
      Block own = b;
      own.tokens = slot + i + 1;
      float residual;
      const int steps = SolveOne(own, decay[i], c, q + i * padded, x, work, &residual);
      Record(b, steps, residual, solves);
      ReadOne(own, b.hkv, b.v, decay[i], c, x, o);
      Finish(h, o, t + i);
    }
    return;
  }
  HWY_ALIGN float c[256] = {};  // c[s * 16 + lane]
  for (int i = 0; i < n; ++i) {
    HWY_ALIGN float row[16];
    Store(Coefficients(h, cumulative, slot + i), row);
    for (int s = 0; s < 16; ++s) c[s * 16 + i] = row[s];
  }
  float* q_columns = work + 3 * 16 * padded;
  RowsToColumns(q, padded, n, padded, q_columns);
  int steps[16];
  float residual[16];
  SolveMany(b, Load(decay), c, q_columns, x, work, steps, residual);
  for (int i = 0; i < n; ++i) Record(b, steps[i], residual[i], solves);
  ReadMany(b, b.hkv, b.v, Load(decay), c, x, o);
  ColumnsToRows(o, n, padded, work, padded);
  for (int i = 0; i < n; ++i) Finish(h, work + i * padded, t + i);
}

// All tokens of a sequence for one head, block by block.
void MesaSequenceHead(const MesaShape& shape, const MesaWeights& weights,
                      const MesaSequence& sequence, const MesaOperands& x, int head, float* scratch,
                      MesaSolves* solves) {
  const Head h(shape, weights, sequence, x, head);
  const int padded = h.padded;
  float* full = scratch;                                   // (P, P)
  float* q = full + static_cast<size_t>(padded) * padded;  // (16, P)
  float* k_columns = q + 16 * padded;                      // (P, 16)
  float* lambda = k_columns + 16 * padded;                 // (P)
  float* rest = lambda + padded;                           // 16 * 6 * P
  std::fill(lambda, lambda + padded, 1.0f);
  std::copy_n(weights.lambda + head * h.dim, h.dim, lambda);

  *solves = MesaSolves();
  const Rows& rows = sequence.rows;
  const float* sealed_in = sequence.sealed_in + head * MesaHeadFloats(h.dim);
  float* sealed_out = sequence.sealed_out + head * MesaHeadFloats(h.dim);
  bool unfolded = false;
  for (int t = 0, n; t < rows.num_tokens; t += n) {
    const int position = rows.position + t, slot = position % kMesaBlock;
    n = std::min(kMesaBlock - slot, rows.num_tokens - t);
    const bool sealed = position >= kMesaBlock;
    FillTail(h, t, n, slot, q);
    const int tokens = slot + n;
    RowsToColumns(h.k, padded, tokens, padded, k_columns);
    HWY_ALIGN float cumulative[16] = {};
    for (int s = 0; s < tokens; ++s) {
      cumulative[s] = (s > 0 ? cumulative[s - 1] : 0.0f) + h.log_gamma[s];
    }
    if (sealed && !unfolded) Unfold(sealed_in, padded, full);
    unfolded = true;
    const Block block{padded,
                      tokens,
                      sealed,
                      full,
                      sealed_in + MesaHkkFloats(h.dim),
                      h.k,
                      h.v,
                      k_columns,
                      lambda,
                      sequence.cg_tolerance,
                      sequence.cg_max_steps};
    SolveTokens(h, block, cumulative, t, n, slot, q, rest, solves);
    if (tokens == kMesaBlock) {
      Seal(h, sealed, cumulative, sealed_in, sealed_out);
      sealed_in = sealed_out;
      unfolded = false;
    }
  }
  if (shape.conv_size > 1) {
    const MesaTailLayout layout(shape.num_heads, h.dim, shape.conv_size);
    KeepHistory(h, x.q, sequence.tail + layout.conv_q);
    KeepHistory(h, x.k, sequence.tail + layout.conv_k);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace packrat {

HWY_EXPORT(MesaSequenceHead);

void Mesa(const MesaShape& shape, const MesaWeights& weights,
          absl::Span<const MesaSequence> sequences, const MesaOperands& operands,
          MesaSolves* solves, KernelContext* context) {
  const auto tasks = static_cast<int64_t>(sequences.size()) * shape.num_heads;
  context->pool.Run(tasks, [&](int64_t task, int worker) {
    HWY_DYNAMIC_DISPATCH(MesaSequenceHead)
    (shape, weights, sequences[task / shape.num_heads], operands,
     static_cast<int>(task % shape.num_heads), context->scratch(worker), &solves[task]);
  });
}

}  // namespace packrat
#endif  // HWY_ONCE
