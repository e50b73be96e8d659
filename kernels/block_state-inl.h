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
