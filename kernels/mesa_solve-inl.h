// The solver of the Mesa layer: the systems of one block's tokens side by side, one when decoding
// and up to sixteen in prompts. See mesa.h for the mathematics. A system's arithmetic is the same
// in any company: products with the sealed matrix run over its rows in order, those with the tail
// over its tokens in order, and every dot product of the iteration is a Dot().
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

// One head's block as the solver sees it. Vectors of its systems are rows (16, P).
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
  const float* decay;      // (16): exp(G_t) of each system
  const float* c;          // (16, 16): row t is C_s of system t, zero for tokens s behind its own
  float tolerance;
  int max_steps;
};

// The smallest |q|^2 that residuals are relative to. Of queries below, with |q| < 1e-10 where 1 is
// usual, the squares vanish in float32 before the residual does, and alpha would be 0 / 0.
constexpr float kTinyQuery = 1e-20f;

// Sums in registers; of up to so many systems at once, for which a row of a matrix is loaded once.
constexpr int kAccumulators = HWY_TARGET == HWY_AVX3 ? 16 : HWY_TARGET == HWY_AVX2 ? 4 : 2;
constexpr int kMostTogether = kAccumulators < 4 ? kAccumulators : 4;

// y = x' H + tail of these systems: with rows = k the product with H_kk, with rows = v the read-out
// from H_kv.
template <int kSystems>
HWY_INLINE void ReadTogether(const Block& b, const float* sealed, const float* rows,
                             const int* systems, const float* x, float* y) {
  HWY_ALIGN float weights[kSystems * 16];  // C_s (k_s . x), of the tail's tokens.
  const float* in[kSystems];
  V16 dots[kSystems];
  for (int t = 0; t < kSystems; ++t) in[t] = x + systems[t] * b.padded, dots[t] = Zero();
  const auto weigh = [&]() HWY_ATTR {
    for (int t = 0; t < kSystems; ++t) {
      Store(Mul(Load(b.c + systems[t] * 16), dots[t]), weights + t * 16);
    }
  };
  // Of one system the dot products are one chain, which by itself would take as long as all of the
  // sealed matrix: they are summed beside its first columns.
  const bool beside = kSystems == 1 && b.sealed;
  if (!beside) {
    for (int i = 0; i < b.padded; ++i) {
      const V16 k = Load(b.k_columns + i * 16);
#pragma GCC unroll 16
      for (int t = 0; t < kSystems; ++t) dots[t] = MulAdd(k, Set(in[t][i]), dots[t]);
    }
    weigh();
  }
  ForColumns<kAccumulators / kSystems>(b.padded, [&](int j, auto width) HWY_ATTR {
    constexpr int kWidth = decltype(width)::value;
    V16 sum[kSystems][kWidth];
#pragma GCC unroll 16
    for (auto& of_system : sum) {
#pragma GCC unroll 16
      for (V16& a : of_system) a = Zero();
    }
    if (b.sealed) {
      for (int i = 0; i < b.padded; ++i) {
        V16 row[kWidth];
#pragma GCC unroll 16
        for (int g = 0; g < kWidth; ++g) row[g] = Load(sealed + i * b.padded + j + g * 16);
#pragma GCC unroll 16
        for (int t = 0; t < kSystems; ++t) {
          const V16 xi = Set(in[t][i]);
          if (kSystems == 1 && j == 0) dots[t] = MulAdd(Load(b.k_columns + i * 16), xi, dots[t]);
#pragma GCC unroll 16
          for (int g = 0; g < kWidth; ++g) sum[t][g] = MulAdd(row[g], xi, sum[t][g]);
        }
      }
      if (beside && j == 0) weigh();
#pragma GCC unroll 16
      for (int t = 0; t < kSystems; ++t) {
        const V16 decay = Set(b.decay[systems[t]]);
#pragma GCC unroll 16
        for (V16& a : sum[t]) a = Mul(a, decay);
      }
    }
    for (int s = 0; s < b.tokens; ++s) {
      V16 row[kWidth];
#pragma GCC unroll 16
      for (int g = 0; g < kWidth; ++g) row[g] = Load(rows + s * b.padded + j + g * 16);
#pragma GCC unroll 16
      for (int t = 0; t < kSystems; ++t) {
        const V16 weight = Set(weights[t * 16 + s]);
#pragma GCC unroll 16
        for (int g = 0; g < kWidth; ++g) sum[t][g] = MulAdd(weight, row[g], sum[t][g]);
      }
    }
    // Of a negative number too small for float32 is left a negative zero, which becomes a positive
    // one where tokens of weight zero come behind it: so always.
#pragma GCC unroll 16
    for (int t = 0; t < kSystems; ++t) {
#pragma GCC unroll 16
      for (int g = 0; g < kWidth; ++g) {
        Store(Add(sum[t][g], Zero()), y + systems[t] * b.padded + j + g * 16);
      }
    }
  });
}

template <int kSystems = kMostTogether>
HWY_INLINE void Read(const Block& b, const float* sealed, const float* rows, const int* systems,
                     int n, const float* x, float* y) {
  for (; n >= kSystems; n -= kSystems, systems += kSystems) {
    ReadTogether<kSystems>(b, sealed, rows, systems, x, y);
  }
  if constexpr (kSystems > 1) Read<kSystems / 2>(b, sealed, rows, systems, n, x, y);
}

constexpr int SolveWorkFloats(int padded) { return (3 * 16 + 1) * padded; }

// Solves the first n systems for q into x (rows); work: SolveWorkFloats(). steps (n); residual (n):
// squared and relative.
HWY_INLINE void Solve(const Block& b, int n, const float* q, float* x, float* work, int* steps,
                      float* residual) {
  const int padded = b.padded;
  float *r = work, *p = r + 16 * padded, *ap = p + 16 * padded, *diagonal = ap + 16 * padded;
  for (int i = 0; i < padded; ++i) diagonal[i] = b.sealed ? b.hkk[i * padded + i] : 0.0f;
  int active[16], num_active = n;
  for (int t = 0; t < n; ++t) {
    active[t] = t;
    const V16 decay = Set(b.decay[t]);
    for (int i = 0; i < padded; i += 16) {
      V16 sum = Mul(Load(diagonal + i), decay);
      for (int s = 0; s < b.tokens; ++s) {
        const V16 k = Load(b.k + s * padded + i);
        sum = MulAdd(Mul(Set(b.c[t * 16 + s]), k), k, sum);
      }
      const int at = t * padded + i;
      Store(Div(Load(q + at), Add(sum, Load(b.lambda + i))), x + at);
    }
  }
  // Of the active ones.
  const auto apply = [&](const float* in, float* out) HWY_ATTR {
    Read(b, b.hkk, b.k, active, num_active, in, out);
    for (int a = 0; a < num_active; ++a) {
      for (int i = 0; i < padded; i += 16) {
        const int at = active[a] * padded + i;
        Store(MulAdd(Load(b.lambda + i), Load(in + at), Load(out + at)), out + at);
      }
    }
  };
  apply(x, ap);
  float rr[16], qq[16];
  for (int t = 0; t < n; ++t) {
    const int row = t * padded;
    for (int i = row; i < row + padded; i += 16) {
      const V16 start = Sub(Load(q + i), Load(ap + i));
      Store(start, r + i);
      Store(start, p + i);
    }
    qq[t] = Dot(q + row, q + row, padded);
    if (qq[t] < kTinyQuery) qq[t] = kTinyQuery;
    rr[t] = Dot(r + row, r + row, padded);
    steps[t] = 0;
  }
  for (int step = 0; step < b.max_steps; ++step) {
    int left = 0;
    for (int a = 0; a < num_active; ++a) {
      const int t = active[a];
      // Written so that a NaN goes on to the limit and is seen in the residual.
      if (!(rr[t] <= b.tolerance * b.tolerance * qq[t])) active[left++] = t;
    }
    num_active = left;
    if (num_active == 0) break;
    apply(p, ap);
    for (int a = 0; a < num_active; ++a) {
      const int t = active[a], row = t * padded;
      const float alpha = rr[t] / Dot(p + row, ap + row, padded);
      for (int i = row; i < row + padded; i += 16) {
        Store(MulAdd(Set(alpha), Load(p + i), Load(x + i)), x + i);
        Store(NegMulAdd(Set(alpha), Load(ap + i), Load(r + i)), r + i);
      }
      const float next = Dot(r + row, r + row, padded);
      const float beta = next / rr[t];
      for (int i = row; i < row + padded; i += 16) {
        Store(MulAdd(Set(beta), Load(p + i), Load(r + i)), p + i);
      }
      rr[t] = next;
      ++steps[t];
    }
  }
  for (int t = 0; t < n; ++t) residual[t] = rr[t] / qq[t];
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#endif  // PACKRAT_KERNELS_MESA_SOLVE_INL_H_
