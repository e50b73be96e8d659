// A decode step is one launch: blocks share the positions of a (sequence, key head) for all query
// heads of the key head, as a list says (attend_plan.h); the first appends the token's key and
// value, the last to arrive joins what all have found. A prompt piece takes three: its keys and
// values are rotated into scratch, its queries attend in tiles to those and to older pages, and
// only then are pages written, since a window's ring may be shorter than the piece.
//
// The own key and value count as they are stored, rounded to the type of the pages.
#include "kernels/attention.h"

#include <cmath>

#include "kernels/attend.cuh"
#include "kernels/attend_finish.cuh"

namespace packrat::gpu {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr int kMaxBlockHeads = 8;

// How query heads are laid over blocks: those of a key head in groups of up to kMaxBlockHeads.
struct HeadBlocks {
  int shared;   // Query heads of a key head.
  int at_once;  // Query heads of a block; the last of a key head may have fewer.
  int each;     // Blocks of a key head.
  __host__ __device__ __forceinline__ explicit HeadBlocks(const AttentionShape& s)
      : shared(s.num_heads / s.num_kv_heads),
        at_once(shared < kMaxBlockHeads ? shared : kMaxBlockHeads),
        each((shared + at_once - 1) / at_once) {}
  __device__ __forceinline__ int KvHead(int block) const { return block / each; }
  __device__ __forceinline__ int First(int block) const {
    return KvHead(block) * shared + block % each * at_once;
  }
  __device__ __forceinline__ int Count(int block) const {
    return min(at_once, shared - block % each * at_once);
  }
};

// One key head's rows of a span's pages.
template <class T>
struct PageRows {
  std::byte* base;
  size_t page_bytes;
  const int32_t* table;
  RingIndex ring;
  int padded;
  int key, value;  // Offsets within a page.
  __device__ PageRows(const StatePages& pages, const AttentionShape& s, int padded_dim, int span,
                      int kv_head)
      : base(pages.base),
        page_bytes(pages.page_bytes),
        table(pages.tables[span].pages),
        ring(pages.tables[span].ring),
        padded(padded_dim),
        key(kv_head * kBlockTokens * padded),
        value((s.num_kv_heads + kv_head) * kBlockTokens * padded) {}
  // The key (part 0) or value (1) of a position.
  __device__ __forceinline__ T* Row(int position, int part) const {
    const int32_t place = table[ring(position / kBlockTokens)];
    return reinterpret_cast<T*>(base + static_cast<size_t>(place) * page_bytes) +
           (part == 0 ? key : value) + position % kBlockTokens * padded;
  }
};

template <class T>
__device__ __forceinline__ const T* HeadRow(const void* x, int stride, int token, int head,
                                            int dim) {
  return static_cast<const T*>(x) + static_cast<size_t>(token) * stride + head * dim;
}

// n queries of a tile: heads(i) of tokens(i).
template <class T, class L, int kAhead, class Token, class Head>
__device__ __forceinline__ void FillQueries(const AttentionShape& s, const AttentionOperands& x,
                                            const AttendTile& tile, int n, const Token& token,
                                            const Head& head) {
  gpu::FillQueries<L, kAhead>(
      tile, n, s.head_dim, s.rotary_dim,
      [&](int i, int d) {
        return ToFloat(HeadRow<T>(x.q, x.stride, token(i), head(i), s.head_dim)[d]);
      },
      [&](int i) { return x.rope + static_cast<size_t>(token(i)) * s.rotary_dim; });
}

// First visible position of a query.
__device__ __forceinline__ int FirstVisible(int window, int position) {
  return window > 0 ? max(0, position + 1 - window) : 0;
}

template <class T>
__device__ __forceinline__ void Store(const AttentionShape& s, const AttentionOperands& x,
                                      int token, int head, int d, float y) {
  static_cast<T*>(x.out)[(static_cast<size_t>(token) * s.num_heads + head) * s.head_dim + d] =
      FromFloat<T>(y);
}

// The own entry of a decode step to `own` (2, kChannels), and to the rows of its page if they are
// not null.
template <class T, class L>
__device__ __forceinline__ void FillOwn(const AttentionShape& s, const AttentionOperands& x,
                                        int token, int kv_head, int padded, float* own, T* key_row,
                                        T* value_row) {
  const int dim = s.head_dim;
  const T* k = HeadRow<T>(x.k, x.stride, token, kv_head, dim);
  const T* v = HeadRow<T>(x.v, x.stride, token, kv_head, dim);
  const int rotary = s.rotary_dim, half = rotary / 2;
  const float* cos_sin = x.rope + static_cast<size_t>(token) * rotary;
  const auto put = [&](int d, float key, T value) {
    const T stored = FromFloat<T>(key);
    own[d] = ToFloat(stored);
    own[L::kChannels + d] = ToFloat(value);
    if (key_row != nullptr && d < padded) key_row[d] = stored, value_row[d] = value;
  };
  for (int i = threadIdx.x; i < half; i += kAttendThreads) {
    float k1, k2;
    RotatePair(ToFloat(k[i]), ToFloat(k[half + i]), cos_sin, i, half, &k1, &k2);
    put(i, k1, v[i]);
    put(half + i, k2, v[half + i]);
  }
  for (int d = rotary + threadIdx.x; d < L::kChannels; d += kAttendThreads) {
    const bool padding = d >= dim;
    put(d, padding ? 0.0f : ToFloat(k[d]), padding ? FromFloat<T>(0.0f) : v[d]);
  }
}

// Blocks: (key heads times blocks of each, items): neighbours read neighbouring parts of the same
// pages.
template <class T, class L, int kQ>
__global__ void __launch_bounds__(kAttendThreads, DecodeBlocks<T, L, kQ>())
    AttentionDecodeKernel(AttentionShape shape, BatchView batch, StatePages pages,
                          AttentionOperands x, const AttendItem* work, AttendScratch scratch,
                          float scale) {
  AwaitPrevious();
  const AttendItem item = work[blockIdx.y];
  if (item.workers == 0) return;
  const BatchSpan span = batch.spans[item.span];
  const HeadBlocks blocks(shape);
  const int block = blockIdx.x, kv_head = blocks.KvHead(block);
  const int worker = item.worker, workers = item.workers;
  const int first_head = blocks.First(block), n = kQ == 1 ? 1 : blocks.Count(block);
  const int dim = shape.head_dim, padded = PadTo16(dim), token = span.first_token;
  const int end = span.position, first = FirstVisible(shape.window, end);
  const Runs runs(first, end, L::kSplit);
  const AttendTile tile(L(), SharedMemory(), kQ == 1 ? 1 : blocks.at_once, kQ, kMaxRuns);
  const PageRows<T> rows(pages, shape, padded, item.span, kv_head);
  AttendPartials partials;
  if (workers > 1) partials = scratch.Partials(item, block, runs.count);
  AttendSplits<T, L, kQ, false, (kQ == 1 ? 1 : 2)>(
      tile, n, {runs, worker, workers}, first, end, padded, scale,
      [&](int position, int part) { return rows.Row(position, part); }, partials,
      [&] {
        if (static_cast<int>(threadIdx.x) < n)
          tile.queries[threadIdx.x].Begin(first, end, worker, workers);
        FillQueries<T, L, (kQ == 1 ? 1 : 2)>(
            shape, x, tile, n, [&](int) { return token; }, [&](int i) { return first_head + i; });
        if (worker == 0) {
          const bool append = block % blocks.each == 0;
          FillOwn<T, L>(shape, x, token, kv_head, padded, tile.own,
                        append ? rows.Row(end, 0) : nullptr, append ? rows.Row(end, 1) : nullptr);
        }
      });
  if (workers == 1) {
    FinishQueries<L, 1>(
        tile, n, dim, scale, [&](int, int channel, float* out) { Load8(tile.own + channel, out); },
        [&](int, int d) { return make_float2(tile.own[L::kChannels + d], 0.0f); },
        [&](int i, int d, float y, float) { Store<T>(shape, x, token, first_head + i, d, y); });
    return;
  }
  if (worker == 0) StoreOwnPartial<L>(tile, n, runs.count, scale, partials);
  if (!ArrivesLast(scratch.Ticket(item, block), workers, tile.flag)) return;
  JoinPartials<L>(tile, n, dim, runs.count, partials,
                  [&](int i, int d, float y) { Store<T>(shape, x, token, first_head + i, d, y); });
}

// Row of a token's key (0) or value (1) in a prompt piece's scratch (tokens, key heads, 2, padded).
template <class T>
__device__ __forceinline__ T* PieceRow(T* piece, const AttentionShape& s, int padded, int token,
                                       int kv_head, int part) {
  return piece + ((static_cast<size_t>(token) * s.num_kv_heads + kv_head) * 2 + part) * padded;
}

// The span of a token of a prompt piece, or null.
__device__ __forceinline__ const BatchSpan* PromptSpan(const BatchView& batch, int token) {
  const int span = batch.token_span[token];
  return span < 0 || batch.spans[span].num_tokens == 1 ? nullptr : &batch.spans[span];
}

// Keys, rotated, and values of prompt pieces to scratch. Blocks: (tokens, parts of the key heads).
template <class T>
__global__ void __launch_bounds__(kAttendThreads)
    AttentionRotateKernel(AttentionShape shape, BatchView batch, AttentionOperands x, T* piece) {
  AwaitPrevious();
  const int token = blockIdx.x;
  if (PromptSpan(batch, token) == nullptr) return;
  const int dim = shape.head_dim, padded = PadTo16(dim), pairs = padded / 2;
  const int index = blockIdx.y * kAttendThreads + threadIdx.x;
  const int kv_head = index / pairs, i = index % pairs;
  if (kv_head >= shape.num_kv_heads) return;
  T* key = PieceRow(piece, shape, padded, token, kv_head, 0);
  T* value = PieceRow(piece, shape, padded, token, kv_head, 1);
  const int half = shape.rotary_dim / 2;
  const bool rotated = i < half;
  const int d1 = rotated ? i : 2 * i, d2 = rotated ? half + i : 2 * i + 1;
  if (2 * i >= dim) {  // Padding.
    key[d1] = key[d2] = value[d1] = value[d2] = FromFloat<T>(0.0f);
    return;
  }
  const T* k = HeadRow<T>(x.k, x.stride, token, kv_head, dim);
  const T* v = HeadRow<T>(x.v, x.stride, token, kv_head, dim);
  float k1 = ToFloat(k[d1]), k2 = ToFloat(k[d2]);
  if (rotated) {
    RotatePair(k1, k2, x.rope + static_cast<size_t>(token) * shape.rotary_dim, i, half, &k1, &k2);
  }
  key[d1] = FromFloat<T>(k1), key[d2] = FromFloat<T>(k2);
  value[d1] = v[d1], value[d2] = v[d2];
}

// From scratch to pages, where no later token of the piece takes the page's place in the ring.
// Blocks: (tokens, parts of a token's rows in eights of channels).
template <class T>
__global__ void __launch_bounds__(kAttendThreads)
    AttentionStoreKernel(AttentionShape shape, BatchView batch, StatePages pages, T* piece) {
  AwaitPrevious();
  const int token = blockIdx.x;
  const BatchSpan* span = PromptSpan(batch, token);
  if (span == nullptr) return;
  const int padded = PadTo16(shape.head_dim), eights = padded / 8;
  const int index = blockIdx.y * kAttendThreads + threadIdx.x, row = index / eights;
  const int kv_head = row / 2, part = row % 2, channel = index % eights * 8;
  if (kv_head >= shape.num_kv_heads) return;
  const PageRows<T> rows(pages, shape, padded, batch.token_span[token], kv_head);
  const int position = span->position + token - span->first_token;
  const int last = span->position + span->num_tokens - 1;
  if (position / kBlockTokens + rows.ring.length() <= last / kBlockTokens) return;
  *reinterpret_cast<Packed8<T>*>(rows.Row(position, part) + channel) =
      *reinterpret_cast<const Packed8<T>*>(PieceRow(piece, shape, padded, token, kv_head, part) +
                                           channel);
}

// Attention of prompt pieces. Blocks: (tiles of tokens, key heads times blocks of each).
template <class T, class L>
__global__ void __launch_bounds__(kAttendThreads, sizeof(T) == 2 ? 3 : 2)
    AttentionPromptKernel(AttentionShape shape, BatchView batch, StatePages pages,
                          AttentionOperands x, T* piece, float scale) {
  AwaitPrevious();
  const HeadBlocks blocks(shape);
  const int block = blockIdx.y, kv_head = blocks.KvHead(block);
  const int first_head = blocks.First(block), heads = blocks.Count(block);
  const int dim = shape.head_dim, padded = PadTo16(dim);
  const int tile_tokens = L::kTile / blocks.at_once, tile_begin = blockIdx.x * tile_tokens;
  const int tile_end = min(tile_begin + tile_tokens, batch.num_tokens);
  const AttendTile tile(L(), SharedMemory(), L::kTile, 4, 0);
  for (int token = tile_begin, tokens; token < tile_end; token += tokens) {
    tokens = 1;
    const BatchSpan* span = PromptSpan(batch, token);
    if (span == nullptr) continue;
    tokens = min(tile_end, span->first_token + span->num_tokens) - token;
    const int n = tokens * heads, begin = span->position;
    const int position = begin + token - span->first_token;
    const int first = FirstVisible(shape.window, position), end = position + tokens - 1;
    const PageRows<T> rows(pages, shape, padded, batch.token_span[token], kv_head);
    const auto row = [&](int at, int part) -> const T* {
      if (at < begin) return rows.Row(at, part);
      return PieceRow(piece, shape, padded, span->first_token + at - begin, kv_head, part);
    };
    __syncthreads();  // The results of the last span have been read.
    AttendSplits<T, L, 4, true>(
        tile, n, {Runs(first, end, L::kSplit), 0, 1}, first, end, padded, scale, row,
        AttendPartials(), [&] {
          if (static_cast<int>(threadIdx.x) < n) {
            const int own = position + static_cast<int>(threadIdx.x) / heads;
            tile.queries[threadIdx.x].Begin(FirstVisible(shape.window, own), own, 0, 1);
          }
          FillQueries<T, L, 4>(
              shape, x, tile, n, [&](int i) { return token + i / heads; },
              [&](int i) { return first_head + i % heads; });
        });
    FinishQueries<L, 4>(
        tile, n, dim, scale,
        [&](int i, int channel, float* out) {
          for (int c = 0; c < 8; ++c) out[c] = 0.0f;
          if (channel < padded) Load8(row(position + i / heads, 0) + channel, out);
        },
        [&](int i, int d) { return make_float2(ToFloat(row(position + i / heads, 1)[d]), 0.0f); },
        [&](int i, int d, float y, float) {
          Store<T>(shape, x, token + i / heads, first_head + i % heads, d, y);
        });
  }
}

// Places the parts of the scratch; returns its size. The piece is as large as for float32.
size_t CarveScratch(const AttentionShape& shape, DType type, int spans, int tokens, std::byte* at,
                    AttendScratch* attend, void** piece) {
  const HeadBlocks blocks(shape);
  const int padded = PadTo16(shape.head_dim);
  std::byte* next = attend->Carve(at, AttentionKind(shape, type), spans, blocks.at_once, padded);
  *piece = next;
  next += size_t{2} * tokens * shape.num_kv_heads * padded * sizeof(float);
  return static_cast<size_t>(next - at);
}

// Of a block where several share a key: what fits into a third of the registers.
constexpr int QueriesAtOnce(int lanes) { return lanes == 32 ? 2 : 4; }

dim3 TokensInParts(int tokens, int threads) {
  return dim3(tokens, (threads + kAttendThreads - 1) / kAttendThreads);
}

template <class T, class L, int kQ>
absl::Status LaunchDecode(const AttentionShape& shape, const BatchView& batch,
                          const StatePages& pages, const AttentionOperands& operands,
                          const AttendItem* work, const AttendScratch& scratch, float scale,
                          CudaStream stream) {
  const AttendKind kind = AttentionKind(shape, operands.type);
  return Launch("AttentionDecode", AttentionDecodeKernel<T, L, kQ>,
                dim3(kind.blocks, AttendItems(kind, batch.num_spans, batch.max_context)),
                kAttendThreads, AttendTile::Bytes<L>(HeadBlocks(shape).at_once, kQ, kMaxRuns),
                stream, shape, batch, pages, operands, work, scratch, scale);
}

template <class T, class L>
absl::Status LaunchPrompt(const AttentionShape& shape, const BatchView& batch,
                          const StatePages& pages, const AttentionOperands& operands, void* scratch,
                          float scale, CudaStream stream) {
  const HeadBlocks blocks(shape);
  const int padded = PadTo16(shape.head_dim), tile_tokens = L::kTile / blocks.at_once;
  auto* piece = static_cast<T*>(scratch);
  const absl::Status rotated =
      Launch("AttentionRotate", AttentionRotateKernel<T>,
             TokensInParts(batch.num_tokens, shape.num_kv_heads * padded / 2), kAttendThreads, 0,
             stream, shape, batch, operands, piece);
  if (!rotated.ok()) return rotated;
  const absl::Status attended = Launch(
      "AttentionPrompt", AttentionPromptKernel<T, L>,
      dim3((batch.num_tokens + tile_tokens - 1) / tile_tokens, shape.num_kv_heads * blocks.each),
      kAttendThreads, AttendTile::Bytes<L>(L::kTile, 4, 0), stream, shape, batch, pages, operands,
      piece, scale);
  if (!attended.ok()) return attended;
  return Launch("AttentionStore", AttentionStoreKernel<T>,
                TokensInParts(batch.num_tokens, shape.num_kv_heads * 2 * padded / 8),
                kAttendThreads, 0, stream, shape, batch, pages, piece);
}

}  // namespace

AttendKind AttentionKind(const AttentionShape& shape, DType type) {
  const int lanes = AttendLanes(PadTo16(shape.head_dim));
  const int queries = shape.num_heads == shape.num_kv_heads ? 1 : QueriesAtOnce(lanes);
  AttendKind kind = {shape.num_kv_heads * HeadBlocks(shape).each,
                     AttendSplit(PadTo16(shape.head_dim)), 1, shape.window};
  kind.at_once = BlocksAtOnce(DecodeBlocks(type, lanes, queries));
  return kind;
}

size_t AttentionScratchBytes(const AttentionShape& shape, DType type, int max_spans,
                             int max_tokens) {
  AttendScratch attend;
  void* piece = nullptr;
  return CarveScratch(shape, type, max_spans, max_tokens, nullptr, &attend, &piece);
}

absl::Status Attention(const AttentionShape& shape, const BatchView& batch, const StatePages& pages,
                       const AttentionOperands& operands, const AttendItem* work, void* scratch,
                       CudaStream stream) {
  if (batch.num_tokens == 0 || batch.num_spans == 0) return absl::OkStatus();
  const float scale = kLog2E / ScoreTemperature(shape);
  AttendScratch attend;
  void* piece = nullptr;
  CarveScratch(shape, operands.type, batch.num_spans, batch.num_tokens,
               static_cast<std::byte*>(scratch), &attend, &piece);
  return WithAttendLayout(operands.type, PadTo16(shape.head_dim), [&](auto type, auto layout) {
    using T = decltype(type);
    using L = decltype(layout);
    constexpr int kQ = QueriesAtOnce(L::kLanes);
    const auto decode =
        shape.num_heads == shape.num_kv_heads ? LaunchDecode<T, L, 1> : LaunchDecode<T, L, kQ>;
    const absl::Status status = decode(shape, batch, pages, operands, work, attend, scale, stream);
    if (!status.ok() || batch.max_span_tokens == 1) return status;
    return LaunchPrompt<T, L>(shape, batch, pages, operands, piece, scale, stream);
  });
}

}  // namespace packrat::gpu
