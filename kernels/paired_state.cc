#include "kernels/paired_state.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/base.h"
#include "kernels/batch.h"
#include "kernels/cpu_target.h"
#include "kernels/tiles-inl.h"
// Keep before the attributes.
#include <immintrin.h>

namespace packrat {
namespace {

constexpr int kLanes = 16;
constexpr int kPairs = kBlockTokens / 2;  // Of a block's tokens.
// Decoding is bound by memory, and a head's rows are too few pages for the hardware to see by
// itself what comes next: most likely those of the next head. How far ahead to ask, in floats.
constexpr int kDecoded = 2;  // Vectors that a token has, at most.
constexpr ptrdiff_t kSoon = 2048;

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

// The intrinsics without a mask make gcc warn of uninitialised values. With a mask of all lanes
// they compile to the same instruction.
constexpr __mmask16 kAll = 0xffff;

__m512 DotPair(__m512 sum, float pair, __m512i pairs) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_set1_ps(pair)),
                          reinterpret_cast<__m512bh>(pairs));
}

// Columns [d, d + 16 * kWide) of kN results.
template <int kN, int kWide>
HWY_INLINE void ReadColumns(const float* x, ptrdiff_t x_stride, const float* state, int num_pairs,
                            int padded, int d, float* out, ptrdiff_t out_stride) {
  __m512 sum[kN][kWide];
#pragma GCC unroll 16
  for (int r = 0; r < kN; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < kWide; ++j) sum[r][j] = _mm512_setzero_ps();
  }
  const float* line = state + d;
  for (int k = 0; k < num_pairs; ++k, line += padded) {
    __m512i rows[kWide];
#pragma GCC unroll 16
    for (int j = 0; j < kWide; ++j) {
      rows[j] = _mm512_loadu_si512(line + j * kLanes);
      if (kN <= kDecoded) {
        _mm_prefetch(reinterpret_cast<const char*>(line + j * kLanes + kSoon), _MM_HINT_T1);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kN; ++r) {
#pragma GCC unroll 16
      for (int j = 0; j < kWide; ++j) sum[r][j] = DotPair(sum[r][j], x[r * x_stride + k], rows[j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kN; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < kWide; ++j) {
      _mm512_storeu_ps(out + r * out_stride + d + j * kLanes, sum[r][j]);
    }
  }
}

// All columns from d on.
template <int kN, int kWide>
HWY_INLINE void ReadFrom(int d, const float* x, ptrdiff_t x_stride, const float* state,
                         int num_pairs, int padded, float* out, ptrdiff_t out_stride) {
  for (; d + kWide * kLanes <= padded; d += kWide * kLanes) {
    ReadColumns<kN, kWide>(x, x_stride, state, num_pairs, padded, d, out, out_stride);
  }
  if constexpr (kWide > 1) {
    ReadFrom<kN, kWide / 2>(d, x, x_stride, state, num_pairs, padded, out, out_stride);
  }
}

// Sixteen sums hide the time that a dot product takes.
template <int kN>
void ReadVectors(const float* x, ptrdiff_t x_stride, const float* state, int num_pairs, int padded,
                 float* out, ptrdiff_t out_stride) {
  constexpr int kWide = kN <= kDecoded ? 8 : kN <= 4 ? 4 : 2;
  ReadFrom<kN, kWide>(0, x, x_stride, state, num_pairs, padded, out, out_stride);
}

constexpr int kMostVectors = 8;
constexpr void (*kReadVectors[])(const float*, ptrdiff_t, const float*, int, int, float*,
                                 ptrdiff_t) = {ReadVectors<1>, ReadVectors<2>, ReadVectors<3>,
                                               ReadVectors<4>, ReadVectors<5>, ReadVectors<6>,
                                               ReadVectors<7>, ReadVectors<8>};

// Two rows of float32, `factor` times each, as pairs.
__m512i Interleave(const float* first, float first_factor, const float* second,
                   float second_factor) {
  const __m512 low = _mm512_mul_ps(_mm512_loadu_ps(first), _mm512_set1_ps(first_factor)),
               high = _mm512_mul_ps(_mm512_loadu_ps(second), _mm512_set1_ps(second_factor));
  const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  // Of the sixteen lanes the first half of one row and the first half of the other, side by side.
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_maskz_permutexvar_epi16(0xffffffff, order, both);
}

struct TwoRows {
  __m512 first, second;
};

// The float32 of a pair of rows: upper halves, to which the lower ones are added as integers of
// either sign.
TwoRows Join(__m512i upper, __m512i lower) {
  const __m512i first =
      _mm512_add_epi32(_mm512_maskz_slli_epi32(kAll, upper, 16),
                       _mm512_maskz_srai_epi32(kAll, _mm512_maskz_slli_epi32(kAll, lower, 16), 16));
  const __m512i second = _mm512_add_epi32(_mm512_and_si512(upper, _mm512_set1_epi32(~0xffff)),
                                          _mm512_maskz_srai_epi32(kAll, lower, 16));
  return {_mm512_castsi512_ps(first), _mm512_castsi512_ps(second)};
}

// Half a unit of the upper half is added before it is cut off, so it is the nearest bfloat16, and
// the lower half is what Join() adds.
void Split(const TwoRows& rows, float* upper, float* lower) {
  const __m512i half = _mm512_set1_epi32(0x8000), high = _mm512_set1_epi32(~0xffff);
  const __m512i first = _mm512_castps_si512(rows.first), second = _mm512_castps_si512(rows.second);
  const __m512i up =
      _mm512_or_si512(_mm512_maskz_srli_epi32(kAll, _mm512_add_epi32(first, half), 16),
                      _mm512_and_si512(_mm512_add_epi32(second, half), high));
  const __m512i low = _mm512_or_si512(_mm512_maskz_andnot_epi32(kAll, high, first),
                                      _mm512_maskz_slli_epi32(kAll, second, 16));
  _mm512_storeu_si512(upper, up);
  _mm512_storeu_si512(lower, low);
}

// A block's tokens in pairs: rows of b, and c times u.
struct BlockPairs {
  alignas(64) float b[kPairs][kMaxHeadDim];
  alignas(64) float u[kPairs][kMaxHeadDim];
};

// kRows rows of S from row i on, columns [d, d + 16 * kWide).
template <int kRows, int kWide>
HWY_INLINE void SealColumns(const BlockPairs& pairs, bool sealed, float decay, int i, int d,
                            int padded, const float* in, float* out, ptrdiff_t lower) {
  const ptrdiff_t at = static_cast<ptrdiff_t>(i / 2) * padded + d;
  __m512 sum[kRows][kWide];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r += 2) {
#pragma GCC unroll 16
    for (int j = 0; j < kWide; ++j) {
      sum[r][j] = sum[r + 1][j] = _mm512_setzero_ps();
      if (!sealed) continue;
      const float* from = in + at + r / 2 * padded + j * kLanes;
      const TwoRows rows = Join(_mm512_loadu_si512(from), _mm512_loadu_si512(from + lower));
      sum[r][j] = _mm512_mul_ps(rows.first, _mm512_set1_ps(decay));
      sum[r + 1][j] = _mm512_mul_ps(rows.second, _mm512_set1_ps(decay));
    }
  }
  for (int s = 0; s < kPairs; ++s) {
    __m512i u[kWide];
#pragma GCC unroll 16
    for (int j = 0; j < kWide; ++j) u[j] = _mm512_load_si512(pairs.u[s] + d + j * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int j = 0; j < kWide; ++j) sum[r][j] = DotPair(sum[r][j], pairs.b[s][i + r], u[j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r += 2) {
#pragma GCC unroll 16
    for (int j = 0; j < kWide; ++j) {
      float* to = out + at + r / 2 * padded + j * kLanes;
      Split({sum[r][j], sum[r + 1][j]}, to, to + lower);
    }
  }
}

// The same in tiles.

// n vectors, at most those of two tiles. A tile has as many pairs of each as divide all.
void ReadInTiles(const float* x, ptrdiff_t x_stride, int n, const float* state, int num_pairs,
                 int padded, float* out, ptrdiff_t out_stride) {
  const int pairs = (num_pairs + kPairs - 1) / kPairs * kPairs;
  const int strip = pairs % kTilePairs == 0 ? kTilePairs : kPairs;
  const int second = n > kTileRows ? n / 2 : 0;
  const StepRows rows{0, {n - second, second}};
  const float* next = state + ptrdiff_t{num_pairs} * padded;  // The next head's.
  ProcessorTiles::Configure(ConfigOf(rows, strip));
  for (int d = 0; d < padded; d += 2 * kLanes) {
    if (n <= kDecoded) {
      for (const float* end = next + ptrdiff_t{2 * kLanes} * num_pairs; next < end;
           next += kLanes) {
        _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T1);
      }
    }
    const bool half = d + kLanes == padded;
    alignas(kTileBytes) float halves[2 * kTileRows][2 * kLanes];
    const auto* left = reinterpret_cast<const std::byte*>(state + d);
    const TileWeights columns{left, half ? left : left + kTileBytes,
                              static_cast<ptrdiff_t>(sizeof(float)) * padded};
    MultiplyInPlace<ProcessorTiles>({rows, x, x_stride, pairs, strip, half ? halves[0] : out + d,
                                     half ? 2 * kLanes : out_stride},
                                    columns, /*accumulate=*/false);
    for (int r = 0; half && r < n; ++r) std::copy_n(halves[r], kLanes, out + r * out_stride + d);
  }
  ProcessorTiles::Release();
}

// What a block adds to kTileRows rows of S from row i on, columns [d, d + 32).
struct alignas(kTileBytes) Added {
  float rows[kTileRows][2 * kLanes];
  int i, d;
};

// S += that, once it has decayed.
void Add(const Added& added, bool sealed, float decay, int padded, const float* in, float* out,
         ptrdiff_t lower) {
  const __m512 factor = _mm512_set1_ps(decay);
  const int end = std::min(added.d + 2 * kLanes, padded);
  for (int r = 0; r < kTileRows; r += 2) {
    for (int d = added.d; d < end; d += kLanes) {
      const ptrdiff_t at = static_cast<ptrdiff_t>((added.i + r) / 2) * padded + d;
      TwoRows sum = {_mm512_load_ps(added.rows[r] + d - added.d),
                     _mm512_load_ps(added.rows[r + 1] + d - added.d)};
      if (sealed) {
        const TwoRows rows = Join(_mm512_loadu_si512(in + at), _mm512_loadu_si512(in + at + lower));
        sum = {_mm512_fmadd_ps(rows.first, factor, sum.first),
               _mm512_fmadd_ps(rows.second, factor, sum.second)};
      }
      Split(sum, out + at, out + at + lower);
    }
  }
}

void SealInTiles(const BlockPairs& pairs, bool sealed, float decay, int state_padded, int padded,
                 const float* in, float* out, ptrdiff_t lower) {
  alignas(kTileBytes) float b[kMaxHeadDim][kPairs];
  for (int s = 0; s < kPairs; ++s) {
    for (int i = 0; i < state_padded; ++i) b[i][s] = pairs.b[s][i];
  }
  const StepRows rows{0, {kTileRows, 0}};
  Added added[2];
  const Added* last = nullptr;
  int now = 0;
  ProcessorTiles::Configure(ConfigOf(rows, kPairs));
  for (int i = 0; i < state_padded; i += kTileRows) {
    for (int d = 0; d < padded; d += 2 * kLanes, now = 1 - now) {
      Added* const next = &added[now];
      next->i = i, next->d = d;
      const auto* left = reinterpret_cast<const std::byte*>(&pairs.u[0][d]);
      MultiplyInPlace<ProcessorTiles>(
          {rows, b[i], kPairs, kPairs, kPairs, next->rows[0], 2 * kLanes},
          {left, d + kLanes == padded ? left : left + kTileBytes,
           static_cast<ptrdiff_t>(sizeof pairs.u[0])},
          /*accumulate=*/false);
      // While the tiles multiply.
      if (last != nullptr) Add(*last, sealed, decay, padded, in, out, lower);
      last = next;
    }
  }
  Add(*last, sealed, decay, padded, in, out, lower);
  ProcessorTiles::Release();
}

}  // namespace

void ReadPairedState(const float* x, ptrdiff_t x_stride, int n, const float* state, int num_pairs,
                     int padded, float* out, ptrdiff_t out_stride) {
  const bool tiles = CpuHasTiles();
  const int most = tiles ? 2 * kTileRows : kMostVectors;
  for (int first = 0, count; first < n; first += count) {
    count = std::min(n - first, most);
    const float* from = x + first * x_stride;
    float* to = out + first * out_stride;
    if (tiles) {
      ReadInTiles(from, x_stride, count, state, num_pairs, padded, to, out_stride);
    } else {
      kReadVectors[count - 1](from, x_stride, state, num_pairs, padded, to, out_stride);
    }
  }
}

void SealPairedState(bool sealed, float decay, const float* c, const float* const* b,
                     const float* u, int state_padded, int padded, const float* in, float* out,
                     ptrdiff_t lower) {
  BlockPairs pairs;
  for (int s = 0; s < kPairs; ++s) {
    for (int i = 0; i < state_padded; i += kLanes) {
      _mm512_store_si512(pairs.b[s] + i, Interleave(b[2 * s] + i, 1.0f, b[2 * s + 1] + i, 1.0f));
    }
    const float *first = u + 2 * s * padded, *second = first + padded;
    for (int d = 0; d < padded; d += kLanes) {
      _mm512_store_si512(pairs.u[s] + d, Interleave(first + d, c[2 * s], second + d, c[2 * s + 1]));
    }
  }
  if (CpuHasTiles()) {
    return SealInTiles(pairs, sealed, decay, state_padded, padded, in, out, lower);
  }
  for (int i = 0; i < state_padded; i += 8) {
    int d = 0;
    for (; d + 2 * kLanes <= padded; d += 2 * kLanes) {
      SealColumns<8, 2>(pairs, sealed, decay, i, d, padded, in, out, lower);
    }
    if (d < padded) SealColumns<8, 1>(pairs, sealed, decay, i, d, padded, in, out, lower);
  }
}

HWY_POP_ATTRIBUTES

}  // namespace packrat
