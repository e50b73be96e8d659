// Attention in bfloat16: in the processor's dot products of pairs (AVX512-BF16), of which
// kernels/matmul_bf16.cc states how they round, or in its tiles (AMX), of which
// kernels/tiles-inl.h does.
//
// One form for a single query and for many: queries, of all heads that share entries, go in rows,
// and a register holds sixteen entries or sixteen channels. What fixes the bits: a score is one
// chain over the pairs of channels, in tiles over strips of pairs; entries are taken in tiles of
// 256 at absolute indices; within a tile weights are summed in sixteen lanes by index modulo 16,
// and values are added in pairs or strips of pairs, at absolute indices too, one after the other.
// What a query does not see weighs exactly zero, and pairs of such entries change no sum but for
// the sign of a zero, which the end takes away.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/attention_bf16-inl.h"
#include "kernels/attention_kernel.h"
#include "kernels/cpu_target.h"
#include "kernels/tiles-inl.h"

namespace packrat {
namespace {

constexpr int kTile = kAttendTile;  // Entries.
constexpr int kBlocks = kTile / kBlockTokens;
// Rows whose accumulators, two registers each, two of entries and a broadcast fill 27 of 32
// registers.
constexpr int kStrip = 12;
// Rows that go through a tile together. Their scores and results stay in the first cache, beside
// the entries in work.
constexpr int kRows = 2 * kStrip;
constexpr int kRowsInTiles = 2 * kTileRows;
// Floats from row to row, so many that rows do not share the sets of a cache. Weights, in bfloat16,
// take the place of scores.
constexpr int kQueryRow = kMaxHeadDim / 2 + kLanes;
constexpr int kScoreRow = kTile + kLanes;
constexpr int kOutRow = kMaxHeadDim + kLanes;
// A tile's values of 32 channels, for the processor's tiles: (pairs of entries, 32, 2).
constexpr int kPanelFloats = kTile / 2 * 2 * kLanes;
// Decoding is bound by memory, and a page is too short for the hardware to see what comes next.
constexpr int kFewRows = 4;

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

__m512 DotPair(__m512 sum, float pair, __m512i pairs) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_set1_ps(pair)),
                          reinterpret_cast<__m512bh>(pairs));
}

// scores[r] (32) = query r . the entries of two blocks. Blocks: (pairs, 16, 2).
template <int kN>
void Scores(const float* q, const std::byte* block, const std::byte* next, int pairs,
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
      _mm512_storeu_ps(scores + r * kScoreRow + c * kLanes, acc[r][c]);
    }
  }
}

// 32 channels of a pair of entries side by side: 0 to 3 of every eight, and 4 to 7.
struct ValuePairs {
  __m512i low, high;
};

// The values of entries [first, end) from `channel` on. values: of each block, (16, P).
class Values {
 public:
  Values(const std::byte* const* values, int first, int end, int padded, int channel)
      : values_(values),
        first_(first),
        end_(end),
        row_bytes_(2 * padded),
        channel_bytes_(2 * channel),
        channels_(padded - channel >= 2 * kLanes ? 0xffffffff : 0xffff) {}

  // Entries 2k and 2k + 1, the channels of group `w` of 32. The entry behind the last may not have
  // been written, and the one before the first may be bad: they are zeros.
  HWY_INLINE ValuePairs Pair(int k, int w) const {
    const std::byte* row = values_[k / 8] + (2 * (k % 8)) * row_bytes_ + channel_bytes_ + w * 64;
    const __m512i even = _mm512_maskz_loadu_epi16(Seen(2 * k), row),
                  odd = _mm512_maskz_loadu_epi16(Seen(2 * k + 1), row + row_bytes_);
    return {_mm512_unpacklo_epi16(even, odd), _mm512_unpackhi_epi16(even, odd)};
  }

 private:
  __mmask32 Seen(int entry) const { return first_ <= entry && entry < end_ ? channels_ : 0; }

  const std::byte* const* const values_;
  const int first_, end_, row_bytes_, channel_bytes_;
  const __mmask32 channels_;
};

// Adds the values of entries [first, end) times their weights to up to 32 * kWide channels of every
// row of `out`.
template <int kN, int kWide>
void AddValues(const float* weights, const std::byte* const* values, int first, int end, int padded,
               int channel, float* out) {
  const Values pairs(values, first, end, padded, channel);
  __m512 acc[kN][2 * kWide];
#pragma GCC unroll 16
  for (int r = 0; r < kN; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < 2 * kWide; ++c) {
      acc[r][c] = _mm512_loadu_ps(out + r * kOutRow + channel + c * kLanes);
    }
  }
  for (int k = first / 2; k < (end + 1) / 2; ++k) {
#pragma GCC unroll 16
    for (int w = 0; w < kWide; ++w) {
      const ValuePairs pair = pairs.Pair(k, w);
#pragma GCC unroll 16
      for (int r = 0; r < kN; ++r) {
        acc[r][2 * w] = DotPair(acc[r][2 * w], weights[r * kScoreRow + k], pair.low);
        acc[r][2 * w + 1] = DotPair(acc[r][2 * w + 1], weights[r * kScoreRow + k], pair.high);
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

constexpr void (*kScores[])(const float*, const std::byte*, const std::byte*, int, float*) = {
    Scores<1>, Scores<2>, Scores<3>, Scores<4>,  Scores<5>,  Scores<6>,
    Scores<7>, Scores<8>, Scores<9>, Scores<10>, Scores<11>, Scores<12>};
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
  static constexpr int kMostRows = std::max(kRows, kRowsInTiles);
  AttendedRows(const AttentionBlock& block, int first_row, int n, float* scratch)
      : b_(block),
        first_row_(first_row),
        n_(n),
        padded_(PadTo16(block.shape->head_dim)),
        head_bytes_(2 * kBlockTokens * padded_),
        scale_(1.44269504f / ScoreTemperature(*block.shape)),
        tiles_(CpuHasTiles()),
        step_{0, {(n + 1) / 2, n / 2}},
        strip_(padded_ % (2 * kTilePairs) == 0 ? kTilePairs : kTilePairs / 2),
        queries_(scratch),
        scores_(queries_ + kMostRows * kQueryRow),
        sums_(scores_ + kMostRows * kScoreRow),
        panel_(sums_ + kMostRows * kOutRow) {
    if (tiles_) ProcessorTiles::Configure(ConfigOf(step_, strip_));
  }
  ~AttendedRows() {
    if (tiles_) ProcessorTiles::Release();
  }
  static int MostRows() { return CpuHasTiles() ? kRowsInTiles : kRows; }

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
    const int entries = 2 * strip_;  // In tiles, they are taken so many at a time.
    const int begin = tiles_ ? first / entries * entries : first / kLanes * kLanes;
    const int blocks = (end - begin + kLanes - 1) / kLanes;
    const std::byte *keys[kBlocks + 1], *values[kBlocks + 1];
    for (int i = 0; i <= blocks; ++i) {
      // Nobody sees what others stand for.
      const int block = std::clamp(begin / kLanes + i, first / kLanes, (end - 1) / kLanes);
      keys[i] = b_.Page(block) + b_.kv_head * head_bytes_;
      values[i] = keys[i] + b_.shape->num_kv_heads * head_bytes_;
    }
    for (int i = 0; i < blocks; i += 2) {
      if (n_ <= kFewRows) {
        for (int j = i; j < std::min(i + 2, blocks); ++j) {
          if (j + 2 < blocks) Prefetch(keys[j + 2], head_bytes_);
          Prefetch(values[j], head_bytes_);
        }
      }
      Score(keys + i, scores_ + i * kLanes);
    }
    for (int r = 0; r < n_; ++r) {
      Weigh(begin, blocks, padded_, scale_, &rows_[r], scores_ + r * kScoreRow,
            sums_ + r * kOutRow);
    }
    if (tiles_) {
      AddInTiles(values, first - begin, end - begin);
    } else {
      Add(values, first - begin, end - begin);
    }
  }

  // Of two blocks.
  void Score(const std::byte* const* keys, float* scores) {
    if (tiles_) {
      MultiplyInPlace<ProcessorTiles>(
          {step_, queries_, kQueryRow, padded_ / 2, strip_, scores, kScoreRow},
          {keys[0], keys[1], kTileBytes}, /*accumulate=*/false);
      return;
    }
    ForStrips(n_, [&](int r, int count) {
      kScores[count - 1](queries_ + r * kQueryRow, keys[0], keys[1], padded_ / 2,
                         scores + r * kScoreRow);
    });
  }

  // The values of entries [first, end), of `values`, times their weights.
  void Add(const std::byte* const* values, int first, int end) {
    for (int channel = 0; channel < padded_;) {
      const bool wide = n_ <= kWideRows && padded_ - channel >= 4 * kLanes;
      ForStrips(n_, [&](int r, int count) {
        (wide ? kAddWide : kAddValues)[count - 1](scores_ + r * kScoreRow, values, first, end,
                                                  padded_, channel, sums_ + r * kOutRow);
      });
      channel += wide ? 4 * kLanes : 2 * kLanes;
    }
  }
  void AddInTiles(const std::byte* const* values, int first, int end) {
    const int pairs = ((end + 1) / 2 + strip_ - 1) / strip_ * strip_;
    const auto* panel = reinterpret_cast<const std::byte*>(panel_);
    for (int channel = 0; channel < padded_; channel += 2 * kLanes) {
      const Values from(values, first, end, padded_, channel);
      for (int k = 0; k < pairs; ++k) {
        const ValuePairs pair = from.Pair(k, 0);
        _mm512_store_si512(panel_ + k * 2 * kLanes, pair.low);
        _mm512_store_si512(panel_ + k * 2 * kLanes + kLanes, pair.high);
      }
      MultiplyInPlace<ProcessorTiles>(
          {step_, scores_, kScoreRow, pairs, strip_, sums_ + channel, kOutRow},
          {panel, panel + kTileBytes, 2 * kTileBytes}, /*accumulate=*/true);
    }
  }

  const AttentionBlock& b_;
  const int first_row_, n_, padded_;
  const int head_bytes_;  // Of the keys, or of the values, of one head in a page.
  const float scale_;     // Of scores, as powers of two: times log2(e).
  const bool tiles_;
  const StepRows step_;  // In tiles: all rows, and how many pairs of them at a time.
  const int strip_;
  float *queries_, *scores_, *sums_, *panel_;
  Row rows_[kMostRows];
};

void Attend(const AttentionBlock& b, float* scratch) {
  const int most = AttendedRows::MostRows();
  const int rows = b.shared() * b.n, groups = (rows + most - 1) / most;
  for (int g = 0, row = 0, end; g < groups; ++g, row = end) {
    end = static_cast<int>(int64_t{rows} * (g + 1) / groups);
    AttendedRows(b, row, end - row, scratch).Attend();
  }
}

HWY_POP_ATTRIBUTES

}  // namespace

size_t AttentionInBFloat16ScratchFloats() {
  return size_t{AttendedRows::kMostRows} * (kQueryRow + kScoreRow + kOutRow) + kPanelFloats;
}

absl::Status AttentionInBFloat16(const AttentionShape& shape, const BatchView& batch,
                                 const StatePages& pages, const AttentionOperands& operands,
                                 KernelContext* context) {
  RunAttention({Append, Attend}, shape, batch, pages, operands, context);
  return absl::OkStatus();
}

}  // namespace packrat
