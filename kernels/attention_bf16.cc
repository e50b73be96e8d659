// Attention in the processor's dot products of pairs of bfloat16 (AVX512-BF16);
// kernels/matmul_bf16.cc states how they round.
//
// One form for a single query and for many: queries, of all heads that share entries, go in rows,
// and a register holds sixteen entries or sixteen channels. What fixes the bits: a score is one
// chain over the pairs of channels; entries are taken in tiles of 256 at absolute indices; within a
// tile weights are summed in sixteen lanes by index modulo 16, and values are added in pairs, one
// after the other. What a query does not see weighs exactly zero, and pairs of such entries change
// no sum but for the sign of a zero, which the end takes away.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "hwy/base.h"
#include "kernels/attention_kernel.h"
// Keep before the attributes.
#include <immintrin.h>

namespace packrat {
namespace {

constexpr int kLanes = 16;  // float32 in a register, or pairs of bfloat16.
static_assert(kLanes == kBlockTokens);
constexpr int kTile = kAttendTile;  // Entries.
constexpr int kBlocks = kTile / kBlockTokens;
// Rows whose accumulators, two registers each, two of entries and a broadcast fill 27 of 32
// registers.
constexpr int kStrip = 12;
// Rows that go through a tile together. Their scores and results stay in the first cache, beside
// the entries in work.
constexpr int kRows = 2 * kStrip;
// Floats from row to row, so many that rows do not share the sets of a cache. Weights, in bfloat16,
// take the place of scores.
constexpr int kQueryRow = kMaxHeadDim / 2 + kLanes;
constexpr int kScoreRow = kTile + kLanes;
constexpr int kOutRow = kMaxHeadDim + kLanes;
constexpr float kNoMaximum = -1e30f;  // Finite, so that the difference of two is zero, not NaN.
// Decoding is bound by memory, and a page is too short for the hardware to see what comes next.
constexpr int kFewRows = 4;

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

__mmask16 FirstLanes(int n) {
  return static_cast<__mmask16>(n >= kLanes ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
}

__m256i Round(__m512 x) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)); }

__m512 DotPair(__m512 sum, float pair, __m512i pairs) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_set1_ps(pair)),
                          reinterpret_cast<__m512bh>(pairs));
}

// The intrinsics without a mask make gcc warn of uninitialised values. With a mask of all lanes
// they compile to the same instruction.
constexpr __mmask16 kAll = 0xffff;

// 2^x for x <= 0, to 7e-6; far less than rounding to bfloat16 takes away. Exactly 1 at 0; a NaN
// stays one. Zero in the other lanes. An interpolation of (2^r - 1) / r at Chebyshev's points.
__m512 Exp2(__mmask16 lanes, __m512 x) {
  const __m512 r = _mm512_maskz_reduce_ps(kAll, x, 0);  // From the nearest integer.
  __m512 p = _mm512_set1_ps(0.00965671055f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.0558382832f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.2402253f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.693136752f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(lanes, p, _mm512_sub_ps(x, r));
}

// The lanes, combined as a tree: l and l + 8, then l and l + 4, l + 2, l + 1.
template <class Op>
HWY_INLINE float Combine(__m512 x, const Op& op) {
  const __m256 low = _mm512_maskz_extractf32x8_ps(0xff, x, 0),
               high = _mm512_maskz_extractf32x8_ps(0xff, x, 1);
  const __m128 four = op(op(_mm256_castps256_ps128(low), _mm256_castps256_ps128(high)),
                         op(_mm256_extractf128_ps(low, 1), _mm256_extractf128_ps(high, 1)));
  const __m128 two = op(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(op(two, _mm_movehdup_ps(two)));
}
float SumLanes(__m512 x) {
  return Combine(x, [](__m128 a, __m128 b) { return _mm_add_ps(a, b); });
}
float MaxLanes(__m512 x) {
  return Combine(x, [](__m128 a, __m128 b) { return _mm_max_ps(a, b); });
}

// scores[r] (32) = scale * query r . the entries of two blocks. Blocks: (pairs, 16, 2).
template <int kN>
void Scores(const float* q, const std::byte* block, const std::byte* next, int pairs, float scale,
            float* scores) {
  __m512 acc[kN][2];
#pragma GCC unroll 16
  for (int r = 0; r < kN; ++r) acc[r][0] = acc[r][1] = _mm512_setzero_ps();
  for (int k = 0; k < pairs; ++k) {
    const __m512i a = _mm512_loadu_si512(block + k * 64), b = _mm512_loadu_si512(next + k * 64);
#pragma GCC unroll 16
    for (int r = 0; r < kN; ++r) {
      acc[r][0] = DotPair(acc[r][0], q[r * kQueryRow + k], a);
      acc[r][1] = DotPair(acc[r][1], q[r * kQueryRow + k], b);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kN; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < 2; ++c) {
      _mm512_storeu_ps(scores + r * kScoreRow + c * kLanes,
                       _mm512_mul_ps(acc[r][c], _mm512_set1_ps(scale)));
    }
  }
}

// Adds the values of entries [first, end) times their weights to up to 32 * kWide channels of every
// row of `out`. Of 32 channels the first register gets 0 to 3 of every eight, the second 4 to 7, as
// pairs of entries are brought side by side. values: of each block, (16, P).
template <int kN, int kWide>
void AddValues(const float* weights, const std::byte* const* values, int first, int end, int padded,
               int channel, float* out) {
  const int row_bytes = 2 * padded, left = padded - channel;
  const auto channels = static_cast<__mmask32>(left >= 2 * kLanes ? 0xffffffff : 0xffff);
  __m512 acc[kN][2 * kWide];
#pragma GCC unroll 16
  for (int r = 0; r < kN; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < 2 * kWide; ++c) {
      acc[r][c] = _mm512_loadu_ps(out + r * kOutRow + channel + c * kLanes);
    }
  }
  for (int k = first / 2; k < (end + 1) / 2; ++k) {
    const std::byte* row = values[k / 8] + (2 * (k % 8)) * row_bytes + 2 * channel;
    // The entry behind the last may not have been written, and the one before the first may be bad.
    const __mmask32 even_channels = 2 * k < first ? 0 : channels,
                    odd_channels = 2 * k + 1 < end ? channels : 0;
#pragma GCC unroll 16
    for (int w = 0; w < kWide; ++w, row += 4 * kLanes) {
      const __m512i even = _mm512_maskz_loadu_epi16(even_channels, row),
                    odd = _mm512_maskz_loadu_epi16(odd_channels, row + row_bytes);
      const __m512i a = _mm512_unpacklo_epi16(even, odd), b = _mm512_unpackhi_epi16(even, odd);
#pragma GCC unroll 16
      for (int r = 0; r < kN; ++r) {
        acc[r][2 * w] = DotPair(acc[r][2 * w], weights[r * kScoreRow + k], a);
        acc[r][2 * w + 1] = DotPair(acc[r][2 * w + 1], weights[r * kScoreRow + k], b);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kN; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < 2 * kWide; ++c) {
      _mm512_storeu_ps(out + r * kOutRow + channel + c * kLanes, acc[r][c]);
    }
  }
}

// What a row sees, and its softmax so far. Scores are logarithms to base 2.
struct Row {
  int first, end;  // Entries [first, end).
  float maximum, total;

  __mmask16 Sees(int entry) const {  // Of the sixteen from `entry` on.
    if (first <= entry && entry + kLanes <= end) return 0xffff;
    return FirstLanes(end - entry) & ~FirstLanes(first - entry);
  }
};

// Turns the scores of `blocks` blocks, from entry `begin` on, into weights, and scales down what
// the row has summed so far.
void Weigh(int begin, int blocks, int padded, Row* row, float* scores, float* out) {
  __m512 best = _mm512_set1_ps(row->maximum);
  for (int b = 0; b < blocks; ++b) {
    best = _mm512_mask_max_ps(best, row->Sees(begin + b * kLanes), best,
                              _mm512_loadu_ps(scores + b * kLanes));
  }
  const float old = row->maximum;
  row->maximum = MaxLanes(best);
  const __m512 maximum = _mm512_set1_ps(row->maximum);
  const auto weights_of = [&](int b) {
    const __m512 score = _mm512_loadu_ps(scores + b * kLanes);
    return Exp2(row->Sees(begin + b * kLanes), _mm512_sub_ps(score, maximum));
  };
  __m512 sum = _mm512_setzero_ps();
  for (int b = 0; b < blocks; b += 2) {
    const __m512 low = weights_of(b),
                 high = b + 1 < blocks ? weights_of(b + 1) : _mm512_setzero_ps();
    sum = _mm512_add_ps(_mm512_add_ps(sum, low), high);
    _mm512_storeu_si512(scores + b * kLanes / 2,
                        reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }
  const __m512 shrink = Exp2(kAll, _mm512_set1_ps(old - row->maximum));
  row->total = row->total * _mm512_cvtss_f32(shrink) + SumLanes(sum);
  for (int d = 0; d < padded; d += 2 * kLanes) {
#pragma GCC unroll 16
    for (int c = 0; c < 2; ++c) {
      float* sums = out + d + c * kLanes;
      _mm512_storeu_ps(sums, _mm512_mul_ps(_mm512_loadu_ps(sums), shrink));
    }
  }
}

// to (dim) = out / total, in the order of channels.
void Finish(const float* out, float total, int dim, float* to) {
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  for (int d = 0; d < dim; d += 2 * kLanes) {
    // Adding zero makes -0, which depends on how many unseen entries were added, to 0.
    const auto take = [&](int c) {
      return _mm512_add_ps(
          _mm512_div_ps(_mm512_loadu_ps(out + d + c * kLanes), _mm512_set1_ps(total)),
          _mm512_setzero_ps());
    };
    const __m512 a = take(0), b = take(1);
    _mm512_mask_storeu_ps(to + d, FirstLanes(dim - d), _mm512_permutex2var_ps(a, low, b));
    _mm512_mask_storeu_ps(to + d + kLanes, FirstLanes(dim - d - kLanes),
                          _mm512_permutex2var_ps(a, high, b));
  }
}

void Append(const AttentionBlock& b) {
  const int dim = b.shape->head_dim, padded = PadTo16(dim);
  std::byte* page = b.Page(b.position(b.t) / kBlockTokens);
  const int head_bytes = 2 * kBlockTokens * padded;
  std::byte* keys = page + b.kv_head * head_bytes;
  std::byte* values = keys + b.shape->num_kv_heads * head_bytes;
  alignas(64) float key[kMaxHeadDim];
  alignas(64) uint32_t pairs[kMaxHeadDim / 2];
  for (int i = b.t; i < b.t + b.n; ++i) {
    const int entry = b.position(i) % kBlockTokens;
    b.Rotate(b.x->k, i, b.kv_head, key);
    const float* value = b.In(b.x->v, i, b.kv_head);
    for (int d = 0; d < padded; d += kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs + d / 2),
                          Round(_mm512_load_ps(key + d)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(values + (entry * padded + d) * 2),
                          Round(_mm512_maskz_loadu_ps(FirstLanes(dim - d), value + d)));
    }
    for (int k = 0; k < padded / 2; ++k) {
      std::memcpy(keys + (k * kBlockTokens + entry) * 4, &pairs[k], 4);
    }
  }
}

constexpr void (*kScores[])(const float*, const std::byte*, const std::byte*, int, float,
                            float*) = {Scores<1>, Scores<2>,  Scores<3>,  Scores<4>,
                                       Scores<5>, Scores<6>,  Scores<7>,  Scores<8>,
                                       Scores<9>, Scores<10>, Scores<11>, Scores<12>};
using ValueAdder = void (*)(const float*, const std::byte* const*, int, int, int, int, float*);
constexpr ValueAdder kAddValues[] = {AddValues<1, 1>,  AddValues<2, 1>,  AddValues<3, 1>,
                                     AddValues<4, 1>,  AddValues<5, 1>,  AddValues<6, 1>,
                                     AddValues<7, 1>,  AddValues<8, 1>,  AddValues<9, 1>,
                                     AddValues<10, 1>, AddValues<11, 1>, AddValues<12, 1>};
// Of few rows twice the channels, since one sum waits for the other.
constexpr ValueAdder kAddWide[] = {AddValues<1, 2>, AddValues<2, 2>, AddValues<3, 2>,
                                   AddValues<4, 2>, AddValues<5, 2>, AddValues<6, 2>};
constexpr int kWideRows = 6;

// strip(row, n) for strips of nearly equal size of `rows` rows.
template <class Strip>
HWY_INLINE void ForStrips(int rows, const Strip& strip) {
  const int strips = (rows + kStrip - 1) / kStrip;
  for (int s = 0, row = 0, end; s < strips; ++s, row = end) {
    end = rows * (s + 1) / strips;
    strip(row, end - row);
  }
}

// Inlined, or gcc takes it for a call that does nothing.
HWY_INLINE void Prefetch(const std::byte* from, int bytes) {
  for (int at = 0; at < bytes; at += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(from + at), _MM_HINT_T0);
  }
}

// Rows [first_row, first_row + n) of a block's: its tokens of the first head, of the second...
class AttendedRows {
 public:
  AttendedRows(const AttentionBlock& block, int first_row, int n, float* scratch)
      : b_(block),
        first_row_(first_row),
        n_(n),
        padded_(PadTo16(block.shape->head_dim)),
        head_bytes_(2 * kBlockTokens * padded_),
        scale_(1.44269504f / ScoreTemperature(*block.shape)),
        queries_(scratch),
        scores_(queries_ + kRows * kQueryRow),
        sums_(scores_ + kRows * kScoreRow) {}

  void Attend() {
    int first = b_.end(b_.t), end = 0;  // Entries that some row sees.
    for (int r = 0; r < n_; ++r) {
      Begin(r);
      first = std::min(first, rows_[r].first), end = std::max(end, rows_[r].end);
    }
    for (int tile = first / kTile * kTile; tile < end; tile += kTile) {
      AttendTile(std::max(first, tile), std::min(end, tile + kTile));
    }
    for (int r = 0; r < n_; ++r) {
      Finish(sums_ + r * kOutRow, rows_[r].total, b_.shape->head_dim, b_.Out(Token(r), Head(r)));
    }
  }

 private:
  int Head(int r) const { return b_.kv_head * b_.shared() + (first_row_ + r) / b_.n; }
  int Token(int r) const { return b_.t + (first_row_ + r) % b_.n; }

  void Begin(int r) {
    alignas(64) float query[kMaxHeadDim];
    const int i = Token(r);
    rows_[r] = {b_.first(i), b_.end(i), kNoMaximum, 0.0f};
    b_.Rotate(b_.x->q, i, Head(r), query);
    for (int d = 0; d < padded_; d += kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(queries_ + r * kQueryRow + d / 2),
                          Round(_mm512_load_ps(query + d)));
    }
    std::fill_n(sums_ + r * kOutRow, (padded_ + 31) / 32 * 32, 0.0f);
  }

  // Entries [first, end), all of one tile.
  void AttendTile(int first, int end) {
    const int begin = first / kLanes * kLanes, blocks = (end - begin + kLanes - 1) / kLanes;
    const std::byte *keys[kBlocks + 1], *values[kBlocks];
    for (int i = 0; i < blocks; ++i) {
      keys[i] = b_.Page(begin / kLanes + i) + b_.kv_head * head_bytes_;
      values[i] = keys[i] + b_.shape->num_kv_heads * head_bytes_;
    }
    keys[blocks] = keys[blocks - 1];  // Nobody sees those scores.
    for (int i = 0; i < blocks; i += 2) {
      if (n_ <= kFewRows) {
        for (int j = i; j < std::min(i + 2, blocks); ++j) {
          if (j + 2 < blocks) Prefetch(keys[j + 2], head_bytes_);
          Prefetch(values[j], head_bytes_);
        }
      }
      ForStrips(n_, [&](int r, int count) {
        kScores[count - 1](queries_ + r * kQueryRow, keys[i], keys[i + 1], padded_ / 2, scale_,
                           scores_ + r * kScoreRow + i * kLanes);
      });
    }
    for (int r = 0; r < n_; ++r) {
      Weigh(begin, blocks, padded_, &rows_[r], scores_ + r * kScoreRow, sums_ + r * kOutRow);
    }
    for (int channel = 0; channel < padded_;) {
      const bool wide = n_ <= kWideRows && padded_ - channel >= 4 * kLanes;
      ForStrips(n_, [&](int r, int count) {
        (wide ? kAddWide : kAddValues)[count - 1](scores_ + r * kScoreRow, values, first - begin,
                                                  end - begin, padded_, channel,
                                                  sums_ + r * kOutRow);
      });
      channel += wide ? 4 * kLanes : 2 * kLanes;
    }
  }

  const AttentionBlock& b_;
  const int first_row_, n_, padded_;
  const int head_bytes_;  // Of the keys, or of the values, of one head in a page.
  const float scale_;     // Of scores, as powers of two: times log2(e).
  float *queries_, *scores_, *sums_;
  Row rows_[kRows];
};

void Attend(const AttentionBlock& b, float* scratch) {
  const int rows = b.shared() * b.n, groups = (rows + kRows - 1) / kRows;
  for (int g = 0, row = 0, end; g < groups; ++g, row = end) {
    end = static_cast<int>(int64_t{rows} * (g + 1) / groups);
    AttendedRows(b, row, end - row, scratch).Attend();
  }
}

HWY_POP_ATTRIBUTES

}  // namespace

size_t AttentionInBFloat16ScratchFloats() {
  return size_t{kRows} * (kQueryRow + kScoreRow + kOutRow);
}

absl::Status AttentionInBFloat16(const AttentionShape& shape, const BatchView& batch,
                                 const StatePages& pages, const AttentionOperands& operands,
                                 KernelContext* context) {
  RunAttention({Append, Attend}, shape, batch, pages, operands, context);
  return absl::OkStatus();
}

}  // namespace packrat
