// The solver of the Mesa layer in its two forms: one system with channels in the lanes, or sixteen
// systems side by side. See mesa.h for the mathematics; equal bits come from equal order: products
// with the sealed matrix run over its rows in order, those with the tail over its tokens in order,
// and every dot product of the iteration is a Dot().
//
// Included once per target through hwy/foreach_target.h.
#if defined(PACKRAT_KERNELS_MESA_SOLVE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PACKRAT_KERNELS_MESA_SOLVE_INL_H_
#undef PACKRAT_KERNELS_MESA_SOLVE_INL_H_
#else
#define PACKRAT_KERNELS_MESA_SOLVE_INL_H_
#endif

#include "kernels/mesa.h"
#include "kernels/vec16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

// One head's block as the solver sees it.
struct Block {
  int padded;              // P
  int tokens;              // In the tail, those being solved included.
  bool sealed;             // Is there a sealed state?
  const float* hkk;        // (P, P), unfolded; if sealed
  const float* hkv;        // (P, P); if sealed
  const float* k;          // (16, P)
  const float* v;          // (16, P)
  const float* k_columns;  // (P, 16): k transposed, zero from `tokens` on
  const float* lambda;     // (P), 1 in the padding
  float tolerance;
  int max_steps;
};

// The smallest |q|^2 that residuals are relative to. Of queries below, with |q| < 1e-10 where 1 is
// usual, the squares vanish in float32 before the residual does, and alpha would be 0 / 0.
constexpr float kTinyQuery = 1e-20f;

constexpr int kAccumulators = HWY_TARGET == HWY_AVX3 ? 8 : HWY_TARGET == HWY_AVX2 ? 4 : 2;

// Of a negative number too small for float32 is left a negative zero, which becomes a positive one
// where tokens of weight zero come behind it, as in sixteen systems: so in all.
HWY_INLINE V16 PositiveZeros(const V16& a) { return Add(a, Zero()); }

// --- One system: channels in the lanes. `decay`: exp(G_t); c (16): C_s, zero for s > t. ---

// y = x' H + tail: with rows = k the product with H_kk, with rows = v the read-out from H_kv. The
// tail's weights C_s (k_s . x) are summed in the loop that reads the sealed matrix: they are one
// chain, which otherwise would take as long as all of the matrix.
HWY_INLINE void ReadOne(const Block& b, const float* sealed, const float* rows, float decay,
                        const float* c, const float* x, float* y) {
  HWY_ALIGN float weights[16];
  V16 dots = Zero();
  const auto add_dots = [&](int i, const V16& xi)
                            HWY_ATTR { dots = MulAdd(Load(b.k_columns + i * 16), xi, dots); };
  if (b.sealed) {
    ForColumns<kAccumulators>(b.padded, [&](int j, auto width) HWY_ATTR {
      constexpr int kWidth = decltype(width)::value;
      V16 acc[kWidth];
#pragma GCC unroll 16
      for (V16& a : acc) a = Zero();
      for (int i = 0; i < b.padded; ++i) {
        const V16 xi = Set(x[i]);
        if (j == 0) add_dots(i, xi);
#pragma GCC unroll 16
        for (int g = 0; g < kWidth; ++g) {
          acc[g] = MulAdd(Load(sealed + i * b.padded + j + g * 16), xi, acc[g]);
        }
      }
#pragma GCC unroll 16
      for (int g = 0; g < kWidth; ++g) Store(Mul(acc[g], Set(decay)), y + j + g * 16);
    });
  } else {
    for (int i = 0; i < b.padded; ++i) add_dots(i, Set(x[i]));
  }
  Store(Mul(Load(c), dots), weights);
  ForColumns<kAccumulators>(b.padded, [&](int j, auto width) HWY_ATTR {
    constexpr int kWidth = decltype(width)::value;
    V16 sum[kWidth];
#pragma GCC unroll 16
    for (int g = 0; g < kWidth; ++g) sum[g] = b.sealed ? Load(y + j + g * 16) : Zero();
    for (int s = 0; s < b.tokens; ++s) {
      const V16 weight = Set(weights[s]);
#pragma GCC unroll 16
      for (int g = 0; g < kWidth; ++g) {
        sum[g] = MulAdd(weight, Load(rows + s * b.padded + j + g * 16), sum[g]);
      }
    }
#pragma GCC unroll 16
    for (int g = 0; g < kWidth; ++g) Store(PositiveZeros(sum[g]), y + j + g * 16);
  });
}

// Solves for q (P) into x (P); work: 3 * P floats. Returns steps; *residual squared and relative.
HWY_INLINE int SolveOne(const Block& b, float decay, const float* c, const float* q, float* x,
                        float* work, float* residual) {
  const int padded = b.padded;
  float *r = work, *p = work + padded, *ap = work + 2 * padded;
  for (int i = 0; i < padded; i += 16) {
    V16 diagonal = Zero();
    if (b.sealed) {
      HWY_ALIGN float d[16];
      for (int l = 0; l < 16; ++l) d[l] = b.hkk[(i + l) * padded + i + l];
      diagonal = Mul(Load(d), Set(decay));
    }
    for (int s = 0; s < b.tokens; ++s) {
      const V16 k = Load(b.k + s * padded + i);
      diagonal = MulAdd(Mul(Set(c[s]), k), k, diagonal);
    }
    Store(Div(Load(q + i), Add(diagonal, Load(b.lambda + i))), x + i);
  }
  const auto apply = [&](const float* in, float* out) HWY_ATTR {
    ReadOne(b, b.hkk, b.k, decay, c, in, out);
    for (int i = 0; i < padded; i += 16) {
      Store(MulAdd(Load(b.lambda + i), Load(in + i), Load(out + i)), out + i);
    }
  };
  apply(x, ap);
  for (int i = 0; i < padded; i += 16) {
    const V16 start = Sub(Load(q + i), Load(ap + i));
    Store(start, r + i);
    Store(start, p + i);
  }
  float qq = Dot(q, q, padded);
  if (qq < kTinyQuery) qq = kTinyQuery;
  const float target = b.tolerance * b.tolerance * qq;
  float rr = Dot(r, r, padded);
  int steps = 0;
  // Written so that a NaN goes on to the limit and is seen in the residual.
  for (; !(rr <= target) && steps < b.max_steps; ++steps) {
    apply(p, ap);
    const float alpha = rr / Dot(p, ap, padded);
    for (int i = 0; i < padded; i += 16) {
      Store(MulAdd(Set(alpha), Load(p + i), Load(x + i)), x + i);
      Store(NegMulAdd(Set(alpha), Load(ap + i), Load(r + i)), r + i);
    }
    const float next = Dot(r, r, padded);
    const float beta = next / rr;
    for (int i = 0; i < padded; i += 16) {
      Store(MulAdd(Set(beta), Load(p + i), Load(r + i)), p + i);
    }
    rr = next;
  }
  *residual = rr / qq;
  return steps;
}

// --- Sixteen systems: all vectors are columns (P, 16). decay (16); c (16, 16): c[s * 16 + t]. ---

HWY_INLINE void SealedMany(const float* m, const float* x, const V16& decay, int padded, float* y) {
  for (int j = 0; j < padded; j += kAccumulators) {
    V16 acc[kAccumulators];
#pragma GCC unroll 16
    for (V16& a : acc) a = Zero();
    for (int i = 0; i < padded; ++i) {
      const V16 xi = Load(x + i * 16);
#pragma GCC unroll 16
      for (int g = 0; g < kAccumulators; ++g) {
        acc[g] = MulAdd(Set(m[i * padded + j + g]), xi, acc[g]);
      }
    }
#pragma GCC unroll 16
    for (int g = 0; g < kAccumulators; ++g) Store(Mul(acc[g], decay), y + (j + g) * 16);
  }
}

HWY_INLINE void ReadMany(const Block& b, const float* sealed, const float* rows, const V16& decay,
                         const float* c, const float* x, float* y) {
  HWY_ALIGN float weights[256];
  for (int s = 0; s < b.tokens; s += kAccumulators) {
    V16 acc[kAccumulators];
#pragma GCC unroll 16
    for (V16& a : acc) a = Zero();
    for (int i = 0; i < b.padded; ++i) {
      const V16 xi = Load(x + i * 16);
#pragma GCC unroll 16
      for (int g = 0; g < kAccumulators; ++g) {
        acc[g] = MulAdd(Set(b.k_columns[i * 16 + s + g]), xi, acc[g]);
      }
    }
#pragma GCC unroll 16
    for (int g = 0; g < kAccumulators; ++g) {
      Store(Mul(Load(c + (s + g) * 16), acc[g]), weights + (s + g) * 16);
    }
  }
  if (b.sealed) SealedMany(sealed, x, decay, b.padded, y);
  for (int j = 0; j < b.padded; j += kAccumulators) {
    V16 acc[kAccumulators];
#pragma GCC unroll 16
    for (int g = 0; g < kAccumulators; ++g) acc[g] = b.sealed ? Load(y + (j + g) * 16) : Zero();
    for (int s = 0; s < b.tokens; ++s) {
      const V16 w = Load(weights + s * 16);
#pragma GCC unroll 16
      for (int g = 0; g < kAccumulators; ++g) {
        acc[g] = MulAdd(w, Set(rows[s * b.padded + j + g]), acc[g]);
      }
    }
#pragma GCC unroll 16
    for (int g = 0; g < kAccumulators; ++g) Store(PositiveZeros(acc[g]), y + (j + g) * 16);
  }
}

// Solves for q into x; work: 3 * P * 16 floats. steps, residual: (16).
HWY_INLINE void SolveMany(const Block& b, const V16& decay, const float* c, const float* q,
                          float* x, float* work, int* steps, float* residual) {
  const int padded = b.padded;
  float *r = work, *p = r + padded * 16, *ap = p + padded * 16;
  for (int i = 0; i < padded; ++i) {
    V16 diagonal = Zero();
    if (b.sealed) diagonal = Mul(Set(b.hkk[i * padded + i]), decay);
    for (int s = 0; s < b.tokens; ++s) {
      const V16 k = Set(b.k[s * padded + i]);
      diagonal = MulAdd(Mul(Load(c + s * 16), k), k, diagonal);
    }
    Store(Div(Load(q + i * 16), Add(diagonal, Set(b.lambda[i]))), x + i * 16);
  }
  const auto apply = [&](const float* in, float* out) HWY_ATTR {
    ReadMany(b, b.hkk, b.k, decay, c, in, out);
    for (int i = 0; i < padded * 16; i += 16) {
      Store(MulAdd(Set(b.lambda[i / 16]), Load(in + i), Load(out + i)), out + i);
    }
  };
  apply(x, ap);
  for (int i = 0; i < padded * 16; i += 16) {
    const V16 start = Sub(Load(q + i), Load(ap + i));
    Store(start, r + i);
    Store(start, p + i);
  }
  HWY_ALIGN float rr[16], target[16], alpha[16], beta[16], pap[16], next[16];
  V16 qq = DotColumns(q, q, padded);
  qq = IfGreater(Set(kTinyQuery), qq, Set(kTinyQuery), qq);
  Store(Mul(Set(b.tolerance * b.tolerance), qq), target);
  Store(DotColumns(r, r, padded), rr);
  for (int t = 0; t < 16; ++t) steps[t] = 0;
  for (int step = 0; step < b.max_steps; ++step) {
    bool any = false;
    bool active[16];
    for (int t = 0; t < 16; ++t) any |= active[t] = !(rr[t] <= target[t]);
    if (!any) break;
    apply(p, ap);
    Store(DotColumns(p, ap, padded), pap);
    // A converged system is frozen: with alpha and beta zero its x and r keep their bits.
    for (int t = 0; t < 16; ++t) alpha[t] = active[t] ? rr[t] / pap[t] : 0.0f;
    const V16 a = Load(alpha);
    for (int i = 0; i < padded * 16; i += 16) {
      Store(MulAdd(a, Load(p + i), Load(x + i)), x + i);
      Store(NegMulAdd(a, Load(ap + i), Load(r + i)), r + i);
    }
    Store(DotColumns(r, r, padded), next);
    for (int t = 0; t < 16; ++t) {
      beta[t] = active[t] ? next[t] / rr[t] : 0.0f;
      rr[t] = next[t];
      steps[t] += active[t] ? 1 : 0;
    }
    const V16 be = Load(beta);
    for (int i = 0; i < padded * 16; i += 16) {
      Store(MulAdd(be, Load(p + i), Load(r + i)), p + i);
    }
  }
  HWY_ALIGN float q2[16];
  Store(qq, q2);
  for (int t = 0; t < 16; ++t) {
    residual[t] = rr[t] / q2[t];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#endif  // PACKRAT_KERNELS_MESA_SOLVE_INL_H_
