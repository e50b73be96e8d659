// What the CPU's gated delta and Mamba-2 do with the matrix of a head, S (rows, padded): reading it
// for a block's tokens, and sealing it at the block's end. See kernels/gated_delta.h and
// kernels/mamba2.h.
//
// Included once per target through hwy/foreach_target.h.
#if defined(PACKRAT_KERNELS_BLOCK_STATE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PACKRAT_KERNELS_BLOCK_STATE_INL_H_
#undef PACKRAT_KERNELS_BLOCK_STATE_INL_H_
#else
#define PACKRAT_KERNELS_BLOCK_STATE_INL_H_
#endif

#include <algorithm>

#include "kernels/batch.h"
#include "kernels/vec16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

// log(1 + exp(a)), to a few roundings; NaN for what is not finite.
HWY_INLINE V16 Softplus(const V16& a) {
  const V16 small = Exp(Min(a, Sub(Zero(), a)));  // exp(-|a|)
  V16 log;
  for (int i = 0; i < kVecs; ++i) log.v[i] = hn::Log1p(Lanes(), small.v[i]);
  return Add(Add(Max(a, Zero()), log), Sub(a, a));
}

// How far a block's tokens have decayed up to the latest, as logarithms: since[s] is the sum over
// (s, t]. Each is summed by itself rather than taken as a difference of sums since the block's
// start: after a large step, those no longer hold the small ones.
struct BlockDecays {
  HWY_ALIGN float since[kBlockTokens] = {};
  HWY_INLINE void Advance(int t, float log_decay) {
    HWY_ALIGN static constexpr float kLanes[kBlockTokens] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                             8, 9, 10, 11, 12, 13, 14, 15};
    const V16 more = IfGreater(Set(static_cast<float>(t)), Load(kLanes), Set(log_decay), Zero());
    Store(Add(Load(since), more), since);
  }
};

// exp() of the sums of log_decay over [0, t], for t < n.
HWY_INLINE void DecaysFromStart(const float* log_decay, int n, float* decay) {
  HWY_ALIGN float sums[kBlockTokens] = {};
  for (int t = 0; t < n; ++t) sums[t] = t > 0 ? sums[t - 1] + log_decay[t] : log_decay[0];
  Store(Exp(Load(sums)), decay);
}

// dots[r] (16): the dot products of x_r (padded) with the first `count` of a block's rows; anything
// in the lanes beyond. Four rows of the block at a time share the loads of all x.
template <int kX>
HWY_INLINE void BlockDots(const float* const* x, const float* const* rows, int count, int padded,
                          float* const* dots) {
  V16 sums[kX][kBlockTokens];
  for (int first = 0; first < count; first += 4) {
    const float* four[4];  // Beyond the last, the last.
    for (int s = 0; s < 4; ++s) four[s] = rows[std::min(first + s, count - 1)];
    V16 sum[kX][4];
#pragma GCC unroll 16
    for (int r = 0; r < kX; ++r) {
#pragma GCC unroll 16
      for (int s = 0; s < 4; ++s) sum[r][s] = Zero();
    }
    for (int i = 0; i < padded; i += 16) {
      V16 in[kX];
#pragma GCC unroll 16
      for (int r = 0; r < kX; ++r) in[r] = Load(x[r] + i);
#pragma GCC unroll 16
      for (int s = 0; s < 4; ++s) {
        const V16 row = Load(four[s] + i);
#pragma GCC unroll 16
        for (int r = 0; r < kX; ++r) sum[r][s] = MulAdd(in[r], row, sum[r][s]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kX; ++r) {
#pragma GCC unroll 16
      for (int s = 0; s < 4; ++s) sums[r][first + s] = sum[r][s];
    }
  }
  const int end = (count + 3) / 4 * 4;
  for (int r = 0; r < kX; ++r) {
    Store(SumRows([&](const int* four, V16* v) HWY_ATTR {
            for (int s = 0; s < 4; ++s) v[s] = four[s] < end ? sums[r][four[s]] : Zero();
          }),
          dots[r]);
  }
}

// How many vectors of a row of S are read at once for `rows` tokens: as the registers allow.
constexpr int StateWidth(int rows) {
  return std::clamp((HWY_TARGET == HWY_AVX3 ? 16 : 8) / (rows * kVecs), 1, 4);
}

// out_r (padded) = x_r S for kRows vectors x_r (num_rows), each sum in order of the rows of S.
template <int kRows>
HWY_INLINE void ReadState(const float* const* x, const float* state, int num_rows, int padded,
                          float* const* out) {
  ForColumns<StateWidth(kRows)>(padded, [&](int d, auto width) HWY_ATTR {
    constexpr int kWidth = decltype(width)::value;
    V16 sum[kRows][kWidth];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j) sum[r][j] = Zero();
    }
    const float* line = state + d;
    for (int i = 0; i < num_rows; ++i, line += padded) {
      V16 row[kWidth];
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j) row[j] = Load(line + j * 16);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const V16 weight = Set(x[r][i]);
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) sum[r][j] = MulAdd(weight, row[j], sum[r][j]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j) Store(sum[r][j], out[r] + d + j * 16);
    }
  });
}

// out = decay * in (zero where nothing is sealed) + sum_s c[s] b[s]' u[s]: the sealed state after
// the block whose sixteen tokens fill b (each state_padded) and u (16, padded).
HWY_INLINE void SealState(bool sealed, float decay, const float* c, const float* const* b,
                          const float* u, int state_padded, int padded, const float* in,
                          float* out) {
  constexpr int kRows = HWY_TARGET == HWY_SSE4 ? 2 : 4;  // Rows of S that share a load of u.
  for (int i = 0; i < state_padded; i += kRows) {
    HWY_ALIGN float weight[kBlockTokens * kRows];
    for (int s = 0; s < kBlockTokens; ++s) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) weight[s * kRows + r] = c[s] * b[s][i + r];
    }
    ForColumns<StateWidth(kRows)>(padded, [&](int d, auto width) HWY_ATTR {
      constexpr int kWidth = decltype(width)::value;
      const ptrdiff_t at = static_cast<ptrdiff_t>(i) * padded + d;
      V16 sum[kRows][kWidth];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) {
          sum[r][j] = sealed ? Mul(Load(in + at + r * padded + j * 16), Set(decay)) : Zero();
        }
      }
      for (int s = 0; s < kBlockTokens; ++s) {
        V16 row[kWidth];
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) row[j] = Load(u + s * padded + d + j * 16);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const V16 factor = Set(weight[s * kRows + r]);
#pragma GCC unroll 16
          for (int j = 0; j < kWidth; ++j) sum[r][j] = MulAdd(factor, row[j], sum[r][j]);
        }
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) Store(sum[r][j], out + at + r * padded + j * 16);
      }
    });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#endif  // PACKRAT_KERNELS_BLOCK_STATE_INL_H_
