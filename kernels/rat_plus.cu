// The running average, whose steps follow each other along the text; then rotated keys to scratch,
// and what leaves the window to pages; attention, over what was kept before the piece and over
// scratch: of decoding texts as a list says (attend_plan.h), of prompt pieces in tiles; and at last
// the window's ring, which until then holds what the piece still sees. A launch each.
#include "kernels/rat_plus.h"

#include <cmath>

#include "kernels/attend.cuh"
#include "kernels/attend_finish.cuh"

namespace packrat::gpu {
namespace {

constexpr float kLog2E = 1.4426950408889634f;

// A thread for each channel of keys and values. Blocks: (spans, parts of the channels).
template <class T>
__global__ void __launch_bounds__(kAttendThreads)
    RatPlusAverageKernel(RatPlusShape shape, BatchView batch, StateParts tails, RatPlusOperands x) {
  AwaitPrevious();
  constexpr int kAhead = 8;  // Loads that are under way at once.
  const BatchSpan span = batch.spans[blockIdx.x];
  const int d = blockIdx.y * kAttendThreads + threadIdx.x, width = shape.width();
  if (span.num_tokens == 0 || d >= width) return;
  float* key =
      reinterpret_cast<float*>(tails.base + static_cast<size_t>(span.tail) * tails.stride) + d;
  float* value = key + PadTo16(width);
  float running_key = 0.0f, running_value = 0.0f;
  if (span.position > 0) running_key = *key, running_value = *value;
  const size_t begin = static_cast<size_t>(span.first_token) * x.stride + d;
  const T* gates = static_cast<const T*>(x.gate) + begin;
  T* keys = static_cast<T*>(x.k) + begin;
  T* values = static_cast<T*>(x.v) + begin;
  for (int t = 0; t < span.num_tokens; t += kAhead) {
    float gate[kAhead], k[kAhead], v[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const size_t row = static_cast<size_t>(min(t + i, span.num_tokens - 1)) * x.stride;
      gate[i] = ToFloat(gates[row]), k[i] = ToFloat(keys[row]), v[i] = ToFloat(values[row]);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (t + i >= span.num_tokens) break;
      const float kept = Sigmoid(gate[i]), rest = 1.0f - kept;
      running_key = fmaf(kept, running_key, rest * k[i]);
      running_value = fmaf(kept, running_value, rest * v[i]);
      const size_t row = static_cast<size_t>(t + i) * x.stride;
      keys[row] = FromFloat<T>(running_key);
      values[row] = FromFloat<T>(running_value);
    }
  }
  *key = running_key;
  *value = running_value;
}

// The rows of one head of a span: what is kept of earlier pieces, and the piece's own.
template <class T>
struct HeadRows {
  RatPlusShape shape;
  const BatchSpan* span;
  std::byte* pages;
  size_t page_bytes;
  const int32_t* table;
  RingIndex page_ring, window_ring;
  T* entries;  // Of the tail, at this head.
  T* piece;    // (tokens, H, 2, padded), at the span's first token and this head.
  int head, padded;

  __device__ HeadRows(const RatPlusShape& s, const BatchView& batch, int span_index,
                      const StatePages& state, const StateParts& tails, T* scratch, int head)
      : shape(s),
        span(batch.spans + span_index),
        page_ring(s.dilation > 0 ? state.tables[span_index].ring : 0),
        window_ring(s.window),
        head(head),
        padded(PadTo16(s.head_dim)) {
    if (s.dilation > 0) {
      pages = state.base;
      page_bytes = state.page_bytes;
      table = state.tables[span_index].pages;
    }
    std::byte* tail = tails.base + static_cast<size_t>(span->tail) * tails.stride;
    entries = reinterpret_cast<T*>(tail + RatTailFloats(s.num_heads, s.head_dim) * sizeof(float)) +
              head * padded;
    piece = scratch + (static_cast<size_t>(span->first_token) * s.num_heads + head) * 2 * padded;
  }
  // Rows of the key; those of the value are further on: value_at() of an entry, padded of Piece().
  __device__ __forceinline__ T* Page(int page) const {
    return reinterpret_cast<T*>(pages + static_cast<size_t>(table[page_ring(page)]) * page_bytes) +
           head * padded;
  }
  __device__ __forceinline__ T* Sink(int s) const {
    return entries + static_cast<size_t>(s) * 2 * shape.num_heads * padded;
  }
  __device__ __forceinline__ T* Ring(int s) const { return Sink(shape.sinks + window_ring(s)); }
  __device__ __forceinline__ T* Piece(int s) const {
    return piece + static_cast<size_t>(s - span->position) * 2 * shape.num_heads * padded;
  }
  __device__ __forceinline__ int value_at() const { return shape.num_heads * padded; }
  // Kept entry number e, and position s of the window, which may be of the piece; part 0: its key,
  // 1: its value.
  __device__ __forceinline__ const T* Far(int e, int part) const {
    return (e < shape.sinks ? Sink(e) : Page(e - shape.sinks)) + part * value_at();
  }
  __device__ __forceinline__ const T* Before(int s, int part) const {
    return (s < shape.sinks ? Sink(s) : Ring(s)) + part * value_at();
  }
  __device__ __forceinline__ const T* Near(int s, int part) const {
    return s < span->position ? Before(s, part) : Piece(s) + part * padded;
  }
};

// Blocks: (tokens, parts of all pairs of channels).
template <class T>
__global__ void __launch_bounds__(kAttendThreads)
    RatPlusFileKernel(RatPlusShape shape, BatchView batch, StatePages pages, StateParts tails,
                      AttentionOperands x, T* piece) {
  AwaitPrevious();
  const int token = blockIdx.x, span_index = batch.token_span[token];
  if (span_index < 0) return;
  const int dim = shape.head_dim, half = dim / 2, padded = PadTo16(dim), pairs = padded / 2;
  const int index = blockIdx.y * kAttendThreads + threadIdx.x;
  const int head = index / pairs, i = index % pairs;
  if (head >= shape.num_heads) return;
  const HeadRows<T> rows(shape, batch, span_index, pages, tails, piece, head);
  const BatchSpan& span = *rows.span;
  const int position = span.position + token - span.first_token;
  const int d1 = i < half ? i : 2 * i, d2 = i < half ? half + i : 2 * i + 1;
  T k1 = FromFloat<T>(0.0f), k2 = k1, v1 = k1, v2 = k1;
  if (i < half) {
    const size_t at = static_cast<size_t>(token) * x.stride + head * dim;
    const T *k = static_cast<const T*>(x.k) + at, *v = static_cast<const T*>(x.v) + at;
    float y1 = 0.0f, y2 = 0.0f;
    RotatePair(ToFloat(k[d1]), ToFloat(k[d2]), x.rope + static_cast<size_t>(token) * dim, i, half,
               &y1, &y2);
    k1 = FromFloat<T>(y1), k2 = FromFloat<T>(y2), v1 = v[d1], v2 = v[d2];
  }
  const auto store = [&](T* key, T* value) {
    key[d1] = k1, key[d2] = k2, value[d1] = v1, value[d2] = v2;
  };
  store(rows.Piece(position), rows.Piece(position) + padded);
  if (position < shape.sinks) store(rows.Sink(position), rows.Sink(position) + rows.value_at());
  // This token, if it leaves the window within the piece.
  int page = shape.PageOf(position);
  if (page >= 0 && position + shape.window < span.position + span.num_tokens) {
    store(rows.Page(page), rows.Page(page) + rows.value_at());
  }
  // The one that leaves the window with it, if that is of an earlier piece.
  const int left = position - shape.window;
  page = left >= 0 && left < span.position ? shape.PageOf(left) : -1;
  if (page < 0) return;
  const T* from = rows.Ring(left);
  T* to = rows.Page(page);
  for (const int part : {0, rows.value_at()}) {
    to[part + d1] = from[part + d1], to[part + d2] = from[part + d2];
  }
}

// A head's attention of n tokens of a span, from `token` on, over both ranges: the runs over kept
// entries, then those over the window, of which the block takes numbers `worker`, `worker` +
// `workers`, ... prepare() runs once the first loads are under way.
template <class T, class L, int kQ, class Prepare>
__device__ __forceinline__ void AttendRanges(const HeadRows<T>& rows, const AttentionOperands& x,
                                             int token, int n, int worker, int workers, float scale,
                                             const AttendTile& tile, const AttendPartials& partials,
                                             const Prepare& prepare) {
  const RatPlusShape& s = rows.shape;
  const int dim = s.head_dim, position = rows.span->position + token - rows.span->first_token;
  int before = 0;  // Runs.
#pragma unroll 1   // One instance of it all: two need more registers than there are.
  for (int range = 0; range < (s.window > 0 ? 2 : 1); ++range) {
    const bool far = range == 0;
    const auto first_of = [&](int i) { return far ? 0 : max(0, position + i - s.window); };
    const auto end_of = [&](int i) { return far ? s.Far(position + i) : position + i; };
    const int first = first_of(0), end = end_of(n - 1);
    const int begin = FirstBehind(before, worker, workers);
    const Runs runs(first, end, L::kSplit);
    __syncthreads();  // The last split's steps have been read, and the results of the last span.
    AttendSplits<T, L, kQ, (kQ > 1)>(
        tile, n, {runs, begin, workers}, first, end, rows.padded, scale,
        [&](int e, int part) {
          if (far) return rows.Far(e, part);
          return kQ == 1 ? rows.Before(e, part) : rows.Near(e, part);
        },
        partials.After(before),
        [&] {
          for (int i = threadIdx.x; i < n; i += kAttendThreads) {
            tile.queries[i].Begin(first_of(i), end_of(i), begin, workers);
            if (far) tile.queries[i].sum = 0.0f;
          }
          if (!far) return;
          FillQueries<L, kQ>(
              tile, n, dim, dim,
              [&](int i, int d) {
                return ToFloat(static_cast<const T*>(
                    x.q)[static_cast<size_t>(token + i) * x.stride + rows.head * dim + d]);
              },
              [&](int i) { return x.rope + static_cast<size_t>(token + i) * dim; });
          prepare();
        });
    before = runs.count;
  }
}

template <class T>
__device__ __forceinline__ void StoreOut(const RatPlusShape& s, const AttentionOperands& x,
                                         int token, int head, int d, float y) {
  static_cast<T*>(x.out)[static_cast<size_t>(token) * s.width() + head * s.head_dim + d] =
      FromFloat<T>(y);
}

// As DecodeBlocks().
constexpr int RatPlusBlocks(DType type) { return type == DType::kF32 ? 2 : 3; }

// Decoding texts. Blocks: (heads, items).
template <class T, class L>
__global__ void __launch_bounds__(kAttendThreads,
                                  RatPlusBlocks(sizeof(T) == 2 ? DType::kBF16 : DType::kF32))
    RatPlusDecodeKernel(RatPlusShape shape, BatchView batch, StatePages pages, StateParts tails,
                        AttentionOperands x, T* piece, const AttendItem* work,
                        AttendScratch scratch, float scale) {
  AwaitPrevious();
  const AttendItem item = work[blockIdx.y];
  if (item.workers == 0) return;
  const int head = blockIdx.x, dim = shape.head_dim;
  const AttendTile tile(L(), SharedMemory(), 1, 1, 2 * kMaxRuns);
  const HeadRows<T> rows(shape, batch, item.span, pages, tails, piece, head);
  const int token = rows.span->first_token, position = rows.span->position;
  const int count = RatPlusRuns(shape, position, L::kSplit).count();
  AttendPartials partials;
  partials.continues = item.workers == 1;
  if (item.workers > 1) partials = scratch.Partials(item, head, count);
  AttendRanges<T, L, 1>(rows, x, token, 1, item.worker, item.workers, scale, tile, partials, [&] {
    const T *key = rows.Near(position, 0), *value = rows.Near(position, 1);
    for (int d = threadIdx.x; d < L::kChannels; d += kAttendThreads) {
      tile.own[d] = d < rows.padded ? ToFloat(key[d]) : 0.0f;
      tile.own[L::kChannels + d] = d < rows.padded ? ToFloat(value[d]) : 0.0f;
    }
  });
  // Read again rather than kept in registers.
  const AttendItem last = work[blockIdx.y];
  const auto store = [&](int, int d, float y, float = 0.0f) {
    StoreOut<T>(shape, x, token, head, d, y);
  };
  if (last.workers == 1) {
    FinishQueries<L, 1>(
        tile, 1, dim, scale, [&](int, int channel, float* out) { Load8(tile.own + channel, out); },
        [&](int, int d) { return make_float2(tile.own[L::kChannels + d], 0.0f); }, store);
    return;
  }
  const AttendPartials all = scratch.Partials(last, head, count);
  if (last.worker == 0) StoreOwnPartial<L>(tile, 1, count, scale, all);
  if (!ArrivesLast(scratch.Ticket(last, head), last.workers, tile.flag)) return;
  JoinPartials<L>(tile, 1, dim, count, all, store);
}

// Prompt pieces. Blocks: (tiles of kTile tokens, heads), of which shared memory holds two where
// heads are too wide for tensor cores.
template <class T, class L>
__global__ void __launch_bounds__(kAttendThreads, L::kTensor ? 3 : 2)
    RatPlusPromptKernel(RatPlusShape shape, BatchView batch, StatePages pages, StateParts tails,
                        AttentionOperands x, T* piece, float scale) {
  AwaitPrevious();
  const int head = blockIdx.y, tile_begin = blockIdx.x * L::kTile;
  const int tile_end = min(tile_begin + L::kTile, batch.num_tokens);
  const AttendTile tile(L(), SharedMemory(), L::kTile, 4, 0);
  for (int token = tile_begin, n; token < tile_end; token += n) {
    n = 1;
    const int span_index = batch.token_span[token];
    if (span_index < 0 || batch.spans[span_index].num_tokens == 1) continue;
    const HeadRows<T> rows(shape, batch, span_index, pages, tails, piece, head);
    const BatchSpan& span = *rows.span;
    n = min(tile_end, span.first_token + span.num_tokens) - token;
    const int position = span.position + token - span.first_token;
    AttendPartials joined;
    joined.continues = true;
    AttendRanges<T, L, 4>(rows, x, token, n, 0, 1, scale, tile, joined, [] {});
    FinishQueries<L, 4>(
        tile, n, shape.head_dim, scale,
        [&](int i, int channel, float* out) {
          for (int c = 0; c < 8; ++c) out[c] = 0.0f;
          if (channel < rows.padded) Load8(rows.Near(position + i, 0) + channel, out);
        },
        [&](int i, int d) { return make_float2(ToFloat(rows.Near(position + i, 1)[d]), 0.0f); },
        [&](int i, int d, float y, float) { StoreOut<T>(shape, x, token + i, head, d, y); });
  }
}

// From scratch to the ring, what the next token may see. Blocks: (tokens, parts of a token's rows
// in eights of channels).
template <class T>
__global__ void __launch_bounds__(kAttendThreads)
    RatPlusStoreKernel(RatPlusShape shape, BatchView batch, StatePages pages, StateParts tails,
                       T* piece) {
  AwaitPrevious();
  const int token = blockIdx.x, span_index = batch.token_span[token];
  if (span_index < 0) return;
  const int padded = PadTo16(shape.head_dim), eights = padded / 8;
  const int index = blockIdx.y * kAttendThreads + threadIdx.x, row = index / eights;
  const int head = row / 2, part = row % 2, channel = index % eights * 8;
  if (head >= shape.num_heads) return;
  const HeadRows<T> rows(shape, batch, span_index, pages, tails, piece, head);
  const BatchSpan& span = *rows.span;
  const int position = span.position + token - span.first_token;
  if (position < shape.sinks || position + shape.window < span.position + span.num_tokens) return;
  *reinterpret_cast<Packed8<T>*>(rows.Ring(position) + part * rows.value_at() + channel) =
      *reinterpret_cast<const Packed8<T>*>(rows.Piece(position) + part * padded + channel);
}

dim3 TokensInParts(int tokens, int threads) {
  return dim3(tokens, (threads + kAttendThreads - 1) / kAttendThreads);
}

// Places the parts of the scratch; returns what comes after them.
std::byte* CarveScratch(const RatPlusShape& shape, DType type, int spans, int tokens, std::byte* at,
                        AttendScratch* attend, void** piece) {
  const int padded = PadTo16(shape.head_dim);
  at = attend->Carve(at, RatPlusKind(shape, type), spans, 1, padded);
  *piece = at;
  return at + size_t{2} * tokens * shape.num_heads * padded * sizeof(float);
}

}  // namespace

absl::Status RatPlusAverage(const RatPlusShape& shape, const BatchView& batch,
                            const StateParts& tails, const RatPlusOperands& operands,
                            CudaStream stream) {
  if (batch.num_tokens == 0 || batch.num_spans == 0) return absl::OkStatus();
  const auto kernel =
      operands.type == DType::kF32 ? RatPlusAverageKernel<float> : RatPlusAverageKernel<BFloat16>;
  return Launch("RatPlusAverage", kernel, TokensInParts(batch.num_spans, shape.width()),
                kAttendThreads, 0, stream, shape, batch, tails, operands);
}

AttendKind RatPlusKind(const RatPlusShape& shape, DType type) {
  return {shape.num_heads, AttendSplit(PadTo16(shape.head_dim)), 1, 0,
          shape,           BlocksAtOnce(RatPlusBlocks(type))};
}

size_t RatPlusScratchBytes(const RatPlusShape& shape, DType type, int max_spans, int max_tokens) {
  AttendScratch attend;
  void* piece = nullptr;
  return static_cast<size_t>(
      CarveScratch(shape, type, max_spans, max_tokens, nullptr, &attend, &piece) -
      static_cast<std::byte*>(nullptr));
}

absl::Status RatPlusAttention(const RatPlusShape& shape, const BatchView& batch,
                              const StatePages& pages, const StateParts& tails,
                              const AttentionOperands& operands, const AttendItem* work,
                              void* scratch, CudaStream stream) {
  if (batch.num_tokens == 0 || batch.num_spans == 0) return absl::OkStatus();
  const int padded = PadTo16(shape.head_dim), tokens = batch.num_tokens;
  const float scale = kLog2E / std::sqrt(static_cast<float>(shape.head_dim));
  AttendScratch attend;
  void* piece_memory = nullptr;
  CarveScratch(shape, operands.type, batch.num_spans, tokens, static_cast<std::byte*>(scratch),
               &attend, &piece_memory);
  const int items =
      AttendItems(RatPlusKind(shape, operands.type), batch.num_spans, batch.max_context);
  return WithAttendLayout(operands.type, padded, [&](auto type, auto layout) {
    using T = decltype(type);
    using L = decltype(layout);
    auto* piece = static_cast<T*>(piece_memory);
    absl::Status status = Launch(
        "RatPlusFile", RatPlusFileKernel<T>, TokensInParts(tokens, shape.num_heads * padded / 2),
        kAttendThreads, 0, stream, shape, batch, pages, tails, operands, piece);
    if (!status.ok()) return status;
    status = Launch("RatPlusDecode", RatPlusDecodeKernel<T, L>, dim3(shape.num_heads, items),
                    kAttendThreads, AttendTile::Bytes<L>(1, 1, 2 * kMaxRuns), stream, shape, batch,
                    pages, tails, operands, piece, work, attend, scale);
    if (status.ok() && batch.max_span_tokens > 1) {
      status = Launch("RatPlusPrompt", RatPlusPromptKernel<T, L>,
                      dim3((tokens + L::kTile - 1) / L::kTile, shape.num_heads), kAttendThreads,
                      AttendTile::Bytes<L>(L::kTile, 4, 0), stream, shape, batch, pages, tails,
                      operands, piece, scale);
    }
    if (!status.ok() || shape.window == 0) return status;
    return Launch("RatPlusStore", RatPlusStoreKernel<T>,
                  TokensInParts(tokens, shape.num_heads * 2 * padded / 8), kAttendThreads, 0,
                  stream, shape, batch, pages, tails, piece);
  });
}

}  // namespace packrat::gpu
