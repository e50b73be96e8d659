// The state of one head of Mamba-2 on the CPU: reading it, sealing it, and how far the tokens of a
// block have decayed. See kernels/mamba2.h.
//
// Included once per target through hwy/foreach_target.h.
#if defined(PACKRAT_KERNELS_MAMBA2_STATE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PACKRAT_KERNELS_MAMBA2_STATE_INL_H_
#undef PACKRAT_KERNELS_MAMBA2_STATE_INL_H_
#else
#define PACKRAT_KERNELS_MAMBA2_STATE_INL_H_
#endif

#include <algorithm>
#include <type_traits>

#include "kernels/batch.h"
#include "kernels/vec16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

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

// How far a block's tokens have decayed up to the latest, as logarithms: since[s] is the sum over
// (s, t]. Each is summed by itself rather than taken as a difference of sums since the block's
// start: after a large step, those no longer hold the small ones.
struct MambaDecays {
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

// The sealed state after the block whose sixteen tokens fill u; b[s] is B of token s, which has
// decayed to c[s], and the state before to `decay`.
HWY_INLINE void SealMamba(bool sealed, float decay, const float* c, const float* const* b,
                          const float* u, int state_padded, int padded, const float* in,
                          float* out) {
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

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#endif  // PACKRAT_KERNELS_MAMBA2_STATE_INL_H_
