// A decode step is one launch: blocks share the finished chunks of a (sequence, head) as a list
// says (attend_plan.h), the first of them also moves the running chunk on, the last to arrive joins
// what all have found. A prompt piece takes two: the running chunk of every token, then attention
// in tiles of sixteen queries.
#include "kernels/rat.h"

#include <cmath>

#include "kernels/attend.cuh"
#include "kernels/attend_finish.cuh"

namespace packrat::gpu {
namespace {

constexpr float kLog2E = 1.4426950408889634f;

// One head's columns of a token's projection.
template <class T>
struct RatRow {
  const T *z, *v, *g, *q, *k;
  __device__ RatRow(const RatShape& s, const RatOperands& x, int token, int head) {
    const int width = s.num_heads * s.head_dim, group = head % s.num_groups;
    const T* row = static_cast<const T*>(x.projection) +
                   static_cast<size_t>(token) * (3 * width + 2 * s.num_groups * s.head_dim);
    z = row + head * s.head_dim;
    v = z + width;
    g = v + width;
    q = row + 3 * width + group * s.head_dim;
    k = q + s.num_groups * s.head_dim;
  }
};

// One head's rows of a span's pages.
template <class T>
struct RatRows {
  std::byte* base;
  size_t page_bytes;
  const int32_t* table;
  RingIndex ring;
  int key, value;  // Offsets within a page.
  __device__ RatRows(const StatePages& pages, const RatShape& s, int padded, int span, int head)
      : base(pages.base),
        page_bytes(pages.page_bytes),
        table(pages.tables[span].pages),
        ring(pages.tables[span].ring),
        key(head * padded),
        value((s.num_heads + head) * padded) {}
  __device__ __forceinline__ T* Page(int chunk) const {
    return reinterpret_cast<T*>(base + static_cast<size_t>(table[ring(chunk)]) * page_bytes);
  }
  // A key (part 0) or a value (1) of a finished chunk.
  __device__ __forceinline__ const T* Row(int chunk, int part) const {
    return Page(chunk) + (part == 0 ? key : value);
  }
};

// Two channels of a head, i and i + half, of the running chunk: before rotation.
struct RunningPair {
  float key[2], value[2];

  // running = gate * running + (1 - gate) * x; zero before a chunk's first token.
  template <class T>
  __device__ __forceinline__ void Step(const RatRow<T>& row, const float* gate_bias, int i,
                                       int half) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int d = i + j * half;
      const float gate = Sigmoid(ToFloat(row.g[d]) + gate_bias[d]), rest = 1.0f - gate;
      key[j] = fmaf(gate, key[j], rest * ToFloat(row.k[d]));
      value[j] = fmaf(gate, value[j], rest * ToFloat(row.v[d]));
    }
  }
};

// The two channels' places in a head's part of a tail.
struct TailPair {
  float *key, *value;
  int half;
  __device__ TailPair(const StateParts& tails, const RatShape& s, int tail, int head, int i)
      : half(s.head_dim / 2) {
    key = reinterpret_cast<float*>(tails.base + static_cast<size_t>(tail) * tails.stride) +
          head * s.head_dim + i;
    value = key + PadTo16(s.num_heads * s.head_dim);
  }
  __device__ __forceinline__ RunningPair Load() const {
    return {{key[0], key[half]}, {value[0], value[half]}};
  }
  __device__ __forceinline__ void Store(const RunningPair& pair) const {
    key[0] = pair.key[0], key[half] = pair.key[1];
    value[0] = pair.value[0], value[half] = pair.value[1];
  }
};

// A head's queries of n tokens, rotated.
template <class T, class L, int kAhead>
__device__ __forceinline__ void FillQueries(const RatShape& s, const RatOperands& x, int token,
                                            int head, const AttendTile& tile, int n) {
  gpu::FillQueries<L, kAhead>(
      tile, n, s.head_dim, s.head_dim,
      [&](int i, int d) { return ToFloat(RatRow<T>(s, x, token + i, head).q[d]); },
      [&](int i) { return x.rope + static_cast<size_t>(token + i) * s.head_dim; });
}

// out = sigmoid(z) * attended for one channel.
template <class T>
__device__ __forceinline__ void StoreGated(const RatShape& s, const RatOperands& x, int token,
                                           int head, int d, float attended, float z) {
  static_cast<T*>(x.out)[(static_cast<size_t>(token) * s.num_heads + head) * s.head_dim + d] =
      FromFloat<T>(Sigmoid(z) * attended);
}

// The first block's share of a decode step: moves the running chunk on, to the tail and tile.own,
// and to the page if the chunk ends. A thread for each pair of channels.
template <class T, class L>
__device__ __forceinline__ void StepRunningChunk(const RatShape& s, const RatOperands& x,
                                                 const StateParts& tails, const BatchSpan& span,
                                                 const RatRow<T>& row, const RatRows<T>& rows,
                                                 int head, int padded, float* own) {
  static_assert(kAttendThreads >= kMaxHeadDim / 2);
  const int dim = s.head_dim, half = dim / 2, i = threadIdx.x;
  const int chunk = span.position / s.chunk_size, place = span.position % s.chunk_size;
  T* page = place == s.chunk_size - 1 ? rows.Page(chunk) : nullptr;
  if (i < half) {
    const TailPair tail(tails, s, span.tail, head, i);
    RunningPair running = {};
    if (place > 0) running = tail.Load();
    running.Step(row, x.gate_bias + head * dim, i, half);
    tail.Store(running);
    const float* cos_sin = x.rope + static_cast<size_t>(span.first_token) * dim;
    float *key = own, *value = own + L::kChannels;
    RotatePair(running.key[0], running.key[1], cos_sin, i, half, &key[i], &key[half + i]);
    value[i] = running.value[0], value[half + i] = running.value[1];
    if (page != nullptr) {
      for (const int d : {i, half + i}) {
        page[rows.key + d] = FromFloat<T>(key[d]);
        page[rows.value + d] = FromFloat<T>(value[d]);
      }
    }
  }
  for (int d = dim + i; d < L::kChannels; d += kAttendThreads) {
    own[d] = own[L::kChannels + d] = 0.0f;
    if (page != nullptr && d < padded) {
      page[rows.key + d] = page[rows.value + d] = FromFloat<T>(0.0f);
    }
  }
}

// Blocks: (heads, items): neighbours read neighbouring parts of the same pages.
template <class T, class L>
__global__ void __launch_bounds__(kAttendThreads, DecodeBlocks<T, L>())
    RatDecodeKernel(RatShape shape, BatchView batch, StatePages pages, StateParts tails,
                    RatOperands x, const AttendItem* work, AttendScratch scratch, float scale) {
  AwaitPrevious();
  const AttendItem item = work[blockIdx.y];
  if (item.workers == 0) return;
  const BatchSpan span = batch.spans[item.span];
  const int head = blockIdx.x, worker = item.worker, workers = item.workers;
  const int dim = shape.head_dim, padded = PadTo16(dim), token = span.first_token;
  const int finished = span.position / shape.chunk_size;
  const Runs runs(0, finished, L::kSplit);
  const AttendTile tile(L(), SharedMemory(), 1, 1, kMaxRuns);
  const RatRows<T> rows(pages, shape, padded, item.span, head);
  const RatRow<T> row(shape, x, token, head);
  AttendPartials partials;
  if (workers > 1) partials = scratch.Partials(item, head, runs.count);
  AttendSplits<T, L, 1, false>(
      tile, 1, {runs, worker, workers}, 0, finished, padded, scale,
      [&](int chunk, int part) { return rows.Row(chunk, part); }, partials,
      [&] {
        if (threadIdx.x == 0) tile.queries[0].Begin(0, finished, worker, workers);
        FillQueries<T, L, 1>(shape, x, token, head, tile, 1);
        if (worker == 0) {
          StepRunningChunk<T, L>(shape, x, tails, span, row, rows, head, padded, tile.own);
        }
      });
  if (workers == 1) {
    FinishQueries<L, 1>(
        tile, 1, dim, scale, [&](int, int channel, float* out) { Load8(tile.own + channel, out); },
        [&](int, int d) { return make_float2(tile.own[L::kChannels + d], ToFloat(row.z[d])); },
        [&](int, int d, float y, float z) { StoreGated<T>(shape, x, token, head, d, y, z); });
    return;
  }
  if (worker == 0) StoreOwnPartial<L>(tile, 1, runs.count, scale, partials);
  if (!ArrivesLast(scratch.Ticket(item, head), workers, tile.flag)) return;
  JoinPartials<L>(tile, 1, dim, runs.count, partials, [&](int, int d, float y) {
    StoreGated<T>(shape, x, token, head, d, y, ToFloat(row.z[d]));
  });
}

// The running chunk of every token of prompt pieces: `running` (tokens, heads, 2, padded), rotated
// keys and values; finished chunks to pages, the unfinished to tails. Blocks: (tokens, parts of all
// pairs of channels); those of a chunk's or span's first token do the whole chunk.
template <class T>
__global__ void __launch_bounds__(kAttendThreads)
    RatStateKernel(RatShape shape, BatchView batch, StatePages pages, StateParts tails,
                   RatOperands x, float* running) {
  AwaitPrevious();
  const int span_index = batch.token_span[blockIdx.x];
  if (span_index < 0) return;
  const BatchSpan span = batch.spans[span_index];
  if (span.num_tokens == 1) return;
  const int begin = static_cast<int>(blockIdx.x) - span.first_token, length = shape.chunk_size;
  const bool continues = span.position % length != 0;
  const int place = (span.position + begin) % length;
  if (begin != 0 && place != 0) return;
  const int n = min(length - place, span.num_tokens - begin);
  // The first piece reads the tail and the last writes it: if both do, one block does both.
  if (begin != 0 && continues && begin + n == span.num_tokens) return;

  const int dim = shape.head_dim, half = dim / 2, padded = PadTo16(dim), pairs = padded / 2;
  const int index = blockIdx.y * kAttendThreads + threadIdx.x;
  const int head = index / pairs, i = index % pairs;
  if (head >= shape.num_heads) return;
  const RatRows<T> rows(pages, shape, padded, span_index, head);
  const TailPair tail(tails, shape, span.tail, head, i < half ? i : 0);
  const bool padding = i >= half;  // Two channels beyond the head dimension: zero.
  const int d1 = padding ? dim + 2 * (i - half) : i, d2 = padding ? d1 + 1 : half + i;

  const auto chunk_piece = [&](int first, int count) {
    RunningPair pair = {};
    const int position = span.position + first;
    if (!padding && position % length != 0) pair = tail.Load();
    float k1 = 0.0f, k2 = 0.0f;
#pragma unroll 4
    for (int t = 0; t < count; ++t) {
      const int token = span.first_token + first + t;
      if (!padding) {
        pair.Step(RatRow<T>(shape, x, token, head), x.gate_bias + head * dim, i, half);
        RotatePair(pair.key[0], pair.key[1], x.rope + static_cast<size_t>(token) * dim, i, half,
                   &k1, &k2);
      }
      float* key = running + (static_cast<size_t>(token) * shape.num_heads + head) * 2 * padded;
      key[d1] = k1, key[d2] = k2;
      key[padded + d1] = pair.value[0], key[padded + d2] = pair.value[1];
    }
    if ((position + count) % length == 0) {
      T* page = rows.Page(position / length);
      page[rows.key + d1] = FromFloat<T>(k1), page[rows.key + d2] = FromFloat<T>(k2);
      page[rows.value + d1] = FromFloat<T>(pair.value[0]);
      page[rows.value + d2] = FromFloat<T>(pair.value[1]);
    }
    if (!padding && first + count == span.num_tokens) tail.Store(pair);
  };
  chunk_piece(begin, n);
  if (begin == 0 && continues && n < span.num_tokens) {
    const int in_last = (span.position + span.num_tokens - 1) % length + 1;
    chunk_piece(span.num_tokens - in_last, in_last);
  }
}

// Attention of prompt pieces. Blocks: (tiles of kTile tokens, heads).
template <class T, class L>
__global__ void __launch_bounds__(kAttendThreads, sizeof(T) == 2 ? 3 : 2)
    RatPromptKernel(RatShape shape, BatchView batch, StatePages pages, RatOperands x,
                    const float* running, float scale) {
  AwaitPrevious();
  const int head = blockIdx.y, dim = shape.head_dim, padded = PadTo16(dim);
  const int tile_begin = blockIdx.x * L::kTile;
  const int tile_end = min(tile_begin + L::kTile, batch.num_tokens);
  const AttendTile tile(L(), SharedMemory(), L::kTile, 4, 0);
  for (int token = tile_begin, n; token < tile_end; token += n) {
    n = 1;
    const int span_index = batch.token_span[token];
    if (span_index < 0) continue;
    const BatchSpan span = batch.spans[span_index];
    if (span.num_tokens == 1) continue;
    n = min(tile_end, span.first_token + span.num_tokens) - token;
    const int position = span.position + token - span.first_token;
    const int finished = (position + n - 1) / shape.chunk_size;  // For the last of them.
    const RatRows<T> rows(pages, shape, padded, span_index, head);
    __syncthreads();  // The results of the last span have been read.
    AttendSplits<T, L, 4, true>(
        tile, n, {Runs(0, finished, L::kSplit), 0, 1}, 0, finished, padded, scale,
        [&](int chunk, int part) { return rows.Row(chunk, part); }, AttendPartials(),
        [&] {
          FillQueries<T, L, 4>(shape, x, token, head, tile, n);
          if (static_cast<int>(threadIdx.x) < n) {
            const int own = position + static_cast<int>(threadIdx.x);
            tile.queries[threadIdx.x].Begin(0, own / shape.chunk_size, 0, 1);
          }
        });
    const auto own = [&](int i) {
      return running + (static_cast<size_t>(token + i) * shape.num_heads + head) * 2 * padded;
    };
    FinishQueries<L, 4>(
        tile, n, dim, scale,
        [&](int i, int channel, float* out) {
          for (int c = 0; c < 8; ++c) out[c] = 0.0f;
          if (channel < padded) Load8(own(i) + channel, out);
        },
        [&](int i, int d) {
          return make_float2(own(i)[padded + d],
                             ToFloat(RatRow<T>(shape, x, token + i, head).z[d]));
        },
        [&](int i, int d, float y, float z) { StoreGated<T>(shape, x, token + i, head, d, y, z); });
  }
}

// Places the parts of the scratch; returns what comes after them.
std::byte* CarveScratch(const RatShape& shape, DType type, int spans, int tokens, std::byte* at,
                        AttendScratch* attend, float** running) {
  const int padded = PadTo16(shape.head_dim);
  at = attend->Carve(at, RatKind(shape, type), spans, 1, padded);
  *running = reinterpret_cast<float*>(at);
  return at + size_t{2} * tokens * shape.num_heads * padded * sizeof(float);
}

}  // namespace

AttendKind RatKind(const RatShape& shape, DType type) {
  const int padded = PadTo16(shape.head_dim);
  AttendKind kind = {shape.num_heads, AttendSplit(padded), shape.chunk_size, 0};
  kind.at_once = BlocksAtOnce(DecodeBlocks(type, AttendLanes(padded)));
  return kind;
}

size_t RatScratchBytes(const RatShape& shape, DType type, int max_spans, int max_tokens) {
  AttendScratch attend;
  float* running = nullptr;
  return static_cast<size_t>(
      CarveScratch(shape, type, max_spans, max_tokens, nullptr, &attend, &running) -
      static_cast<std::byte*>(nullptr));
}

absl::Status Rat(const RatShape& shape, const BatchView& batch, const StatePages& pages,
                 const StateParts& tails, const RatOperands& operands, const AttendItem* work,
                 void* scratch, CudaStream stream) {
  if (batch.num_tokens == 0 || batch.num_spans == 0) return absl::OkStatus();
  const int padded = PadTo16(shape.head_dim);
  const float scale = kLog2E / std::sqrt(static_cast<float>(shape.head_dim));
  AttendScratch attend;
  float* running = nullptr;
  CarveScratch(shape, operands.type, batch.num_spans, batch.num_tokens,
               static_cast<std::byte*>(scratch), &attend, &running);
  const int items = AttendItems(RatKind(shape, operands.type), batch.num_spans, batch.max_context);
  return WithAttendLayout(operands.type, padded, [&](auto type, auto layout) {
    using T = decltype(type);
    using L = decltype(layout);
    const absl::Status decoded =
        Launch("RatDecode", RatDecodeKernel<T, L>, dim3(shape.num_heads, items), kAttendThreads,
               AttendTile::Bytes<L>(1, 1, kMaxRuns), stream, shape, batch, pages, tails, operands,
               work, attend, scale);
    if (!decoded.ok() || batch.max_span_tokens == 1) return decoded;
    const int parts = (shape.num_heads * padded / 2 + kAttendThreads - 1) / kAttendThreads;
    const absl::Status status =
        Launch("RatState", RatStateKernel<T>, dim3(batch.num_tokens, parts), kAttendThreads, 0,
               stream, shape, batch, pages, tails, operands, running);
    if (!status.ok()) return status;
    return Launch("RatPrompt", RatPromptKernel<T, L>,
                  dim3((batch.num_tokens + L::kTile - 1) / L::kTile, shape.num_heads),
                  kAttendThreads, AttendTile::Bytes<L>(L::kTile, 4, 0), stream, shape, batch, pages,
                  operands, running, scale);
  });
}

}  // namespace packrat::gpu
