// Four launches: the running average, whose steps follow each other along the text; rotated keys to
// scratch, and what leaves the window to pages; attention, over what was kept before the piece and
// over scratch; and at last the window's ring, which until then holds what the piece still sees.
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
    return reinterpret_cast<T*>(pages +
                                static_cast<size_t>(__ldg(table + page_ring(page))) * page_bytes) +
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
  // Kept entry number e, and position s of the window; part 0: its key, 1: its value.
  __device__ __forceinline__ const T* Far(int e, int part) const {
    return (e < shape.sinks ? Sink(e) : Page(e - shape.sinks)) + part * value_at();
  }
  __device__ __forceinline__ const T* Near(int s, int part) const {
    if (s >= span->position) return Piece(s) + part * padded;
    return (s < shape.sinks ? Sink(s) : Ring(s)) + part * value_at();
  }
};

// Blocks: (tokens, parts of all pairs of channels).
template <class T>
__global__ void __launch_bounds__(kAttendThreads)
    RatPlusFileKernel(RatPlusShape shape, BatchView batch, StatePages pages, StateParts tails,
                      AttentionOperands x, T* piece) {
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

// Blocks: (tiles of tokens, heads). kQ queries at once.
template <class T, class L, int kQ>
__global__ void __launch_bounds__(kAttendThreads, sizeof(T) == 2 ? 3 : 2)
    RatPlusAttendKernel(RatPlusShape shape, BatchView batch, StatePages pages, StateParts tails,
                        AttentionOperands x, T* piece, int tile_tokens, float scale) {
  const int head = blockIdx.y, dim = shape.head_dim, padded = PadTo16(dim);
  const int tile_begin = blockIdx.x * tile_tokens;
  const int tile_end = min(tile_begin + tile_tokens, batch.num_tokens);
  const AttendTile tile(L(), SharedMemory(), tile_tokens, kQ, false);
  for (int token = tile_begin, n; token < tile_end; token += n) {
    n = 1;
    const int span_index = batch.token_span[token];
    if (span_index < 0) continue;
    const HeadRows<T> rows(shape, batch, span_index, pages, tails, piece, head);
    const BatchSpan& span = *rows.span;
    n = min(tile_end, span.first_token + span.num_tokens) - token;
    const int position = span.position + token - span.first_token;
    AttendPartials joined;
    joined.continues = true;
    const int far = shape.Far(position + n - 1);
    __syncthreads();  // The results of the last span have been read.
    AttendSplits<T, L, kQ, (kQ > 1)>(
        tile, n, {Runs(0, far, L::kSplit), 0, 1}, 0, far, padded, scale,
        [&](int e, int part) { return rows.Far(e, part); }, joined,
        [&] {
          FillQueries<L, kQ>(
              tile, n, dim, dim,
              [&](int i, int d) {
                return ToFloat(__ldg(static_cast<const T*>(x.q) +
                                     static_cast<size_t>(token + i) * x.stride + head * dim + d));
              },
              [&](int i) { return x.rope + static_cast<size_t>(token + i) * dim; });
          for (int at = threadIdx.x; at < n * L::kChannels; at += kAttendThreads) {
            tile.result[at] = 0.0f;
          }
          for (int i = threadIdx.x; i < n; i += kAttendThreads) {
            AttendQuery& query = tile.queries[i];
            query.Begin(0, shape.Far(position + i), 0, 1);
            query.max = kNoScore, query.sum = 0.0f;
          }
        });
    if (shape.window > 0) {
      const int first = max(0, position - shape.window), end = position + n - 1;
      __syncthreads();  // The last split's steps have been read.
      AttendSplits<T, L, kQ, (kQ > 1)>(
          tile, n, {Runs(first, end, L::kSplit), 0, 1}, first, end, padded, scale,
          [&](int s, int part) { return rows.Near(s, part); }, joined,
          [&] {
            for (int i = threadIdx.x; i < n; i += kAttendThreads) {
              tile.queries[i].Begin(max(0, position + i - shape.window), position + i, 0, 1);
            }
          });
    }
    FinishQueries<L, kQ>(
        tile, n, dim, scale,
        [&](int i, int channel, float* out) {
          for (int c = 0; c < 8; ++c) out[c] = 0.0f;
          if (channel < padded) Load8(rows.Near(position + i, 0) + channel, out);
        },
        [&](int i, int d) { return make_float2(ToFloat(rows.Near(position + i, 1)[d]), 0.0f); },
        [&](int i, int d, float y, float) {
          static_cast<T*>(x.out)[static_cast<size_t>(token + i) * shape.width() + head * dim + d] =
              FromFloat<T>(y);
        });
  }
}

// From scratch to the ring, what the next token may see. Blocks: (tokens, parts of a token's rows
// in eights of channels).
template <class T>
__global__ void __launch_bounds__(kAttendThreads)
    RatPlusStoreKernel(RatPlusShape shape, BatchView batch, StatePages pages, StateParts tails,
                       T* piece) {
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

size_t RatPlusScratchBytes(const RatPlusShape& shape, int max_tokens) {
  return size_t{2} * max_tokens * shape.num_heads * PadTo16(shape.head_dim) * sizeof(float);
}

absl::Status RatPlusAttention(const RatPlusShape& shape, const BatchView& batch,
                              const StatePages& pages, const StateParts& tails,
                              const AttentionOperands& operands, void* scratch, CudaStream stream) {
  if (batch.num_tokens == 0 || batch.num_spans == 0) return absl::OkStatus();
  const int padded = PadTo16(shape.head_dim), tokens = batch.num_tokens;
  const float scale = kLog2E / std::sqrt(static_cast<float>(shape.head_dim));
  const bool decode = batch.max_span_tokens == 1;
  return WithAttendLayout(operands.type, padded, [&](auto type, auto layout) {
    using T = decltype(type);
    using L = decltype(layout);
    auto* piece = static_cast<T*>(scratch);
    absl::Status status = Launch(
        "RatPlusFile", RatPlusFileKernel<T>, TokensInParts(tokens, shape.num_heads * padded / 2),
        kAttendThreads, 0, stream, shape, batch, pages, tails, operands, piece);
    if (!status.ok()) return status;
    const int tile_tokens = decode ? 1 : L::kTile;
    const dim3 tiles((tokens + tile_tokens - 1) / tile_tokens, shape.num_heads);
    status = decode ? Launch("RatPlusAttend", RatPlusAttendKernel<T, L, 1>, tiles, kAttendThreads,
                             AttendTile::Bytes<L>(1, 1, false), stream, shape, batch, pages, tails,
                             operands, piece, tile_tokens, scale)
                    : Launch("RatPlusAttend", RatPlusAttendKernel<T, L, 4>, tiles, kAttendThreads,
                             AttendTile::Bytes<L>(L::kTile, 4, false), stream, shape, batch, pages,
                             tails, operands, piece, tile_tokens, scale);
    if (!status.ok() || shape.window == 0) return status;
    return Launch("RatPlusStore", RatPlusStoreKernel<T>,
                  TokensInParts(tokens, shape.num_heads * 2 * padded / 8), kAttendThreads, 0,
                  stream, shape, batch, pages, tails, piece);
  });
}

}  // namespace packrat::gpu
