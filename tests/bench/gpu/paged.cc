#include "tests/bench/gpu/paged.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"

namespace packrat::gpu_bench {

std::vector<int> DecodePositions(int spans, int position) {
  std::vector<int> positions(spans);
  for (int i = 0; i < spans; ++i) positions[i] = std::max(0, position - 1 - i % 16);
  return positions;
}

absl::StatusOr<PagePool> PagePool::Make(Bench* bench, int copies, int spans, int pages_each,
                                        size_t page_bytes, DType type) {
  PagePool pool;
  pool.page_bytes_ = page_bytes;
  pool.spans_ = spans;
  pool.pages_each_ = std::max(1, pages_each);
  const size_t wanted = size_t(copies) * spans * pool.pages_each_;
  const auto most = static_cast<size_t>(bench->UsableBytes() / static_cast<double>(page_bytes));
  const size_t pages = std::min(wanted, most);
  if (pages < static_cast<size_t>(pool.pages_each_)) {
    return absl::ResourceExhaustedError("one sequence's pages do not fit into device memory");
  }
  if (pages < wanted) {
    pool.shared_ = absl::StrCat("sequences share pages: ", wanted * page_bytes >> 20,
                                " MiB are read from a pool of ", pages * page_bytes >> 20, " MiB");
  }
  BENCH_ASSIGN(pool.pool_, bench->Random(pages * page_bytes / DTypeBytes(type), type, 1.0f));
  std::vector<int32_t> order(pages), dealt(wanted);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  for (size_t i = 0; i < wanted; ++i) dealt[i] = order[i % pages];
  BENCH_ASSIGN(pool.pages_, ToDevice(dealt.data(), wanted * sizeof(int32_t)));
  std::vector<PageTable> tables;
  for (size_t first = 0; first < wanted; first += pool.pages_each_) {
    tables.push_back(
        {reinterpret_cast<const int32_t*>(pool.pages_.data()) + first, pool.pages_each_});
  }
  BENCH_ASSIGN(pool.tables_, ToDevice(tables.data(), tables.size() * sizeof(PageTable)));
  return pool;
}

StatePages PagePool::View(int copy) const {
  const auto* tables = reinterpret_cast<const PageTable*>(tables_.data());
  return {pool_.data(), page_bytes_, tables + size_t(copy) * spans_};
}

absl::StatusOr<RatBench> RatBench::Make(Bench* bench, const RatShape& shape, DType type, int spans,
                                        int position, int tokens) {
  RatBench b;
  b.shape_ = shape, b.type_ = type;
  const int context = tokens > 1 ? tokens : position;
  const size_t size = DTypeBytes(type), rows = size_t(spans) * tokens;
  const size_t width = size_t(shape.num_heads) * shape.head_dim;
  const size_t page = RatPageFloats(shape.num_heads, shape.head_dim) * size;
  const size_t tail = RatTailFloats(shape.num_heads, shape.head_dim) * 4;
  const int chunks = context / shape.chunk_size + 1;
  b.copies_ = tokens > 1 ? 1 : bench->Copies(double(spans) * (chunks * page + tail), 1);
  BENCH_ASSIGN(b.pool_, PagePool::Make(bench, b.copies_, spans, chunks, page, type));
  BENCH_ASSIGN(b.tails_, bench->Random(size_t(b.copies_) * spans * tail / 4, DType::kF32, 1.0f));
  BENCH_ASSIGN(b.projection_, bench->Random(rows * shape.projection(), type, 1.0f));
  BENCH_ASSIGN(b.gate_bias_, bench->Random(width, DType::kF32, 1.0f));
  BENCH_ASSIGN(b.rope_, bench->Random(rows * shape.head_dim, DType::kF32, 0.5f));
  BENCH_ASSIGN(b.out_, bench->Random(rows * width, type, 1.0f));
  const size_t scratch =
      gpu::RatScratchBytes(shape, spans, static_cast<int>(rows), context + shape.chunk_size);
  BENCH_ASSIGN(b.scratch_, gpu::DeviceMemory::AllocateZeroed(scratch + 256, "scratch"));
  const std::vector<int> positions =
      tokens > 1 ? std::vector<int>(spans, 0) : DecodePositions(spans, position);
  for (int copy = 0; copy < b.copies_; ++copy) {
    BENCH_ASSIGN(SpanBatch batch, SpanBatch::Make(positions, tokens, copy * spans));
    b.batches_.push_back(std::move(batch));
  }
  return b;
}

absl::Status RatBench::Run(int copy, const void* projection, CudaStream stream) {
  const RatOperands operands{projection, reinterpret_cast<const float*>(gate_bias_.data()),
                             reinterpret_cast<const float*>(rope_.data()), out_.data(), type_};
  const StateParts tails{tails_.data(), RatTailFloats(shape_.num_heads, shape_.head_dim) * 4};
  return gpu::Rat(shape_, batches_[copy].view(), pool_.View(copy), tails, operands, scratch_.data(),
                  stream);
}

absl::StatusOr<AttentionBench> AttentionBench::Make(Bench* bench, const AttentionShape& shape,
                                                    DType type, int spans, int position,
                                                    int tokens) {
  AttentionBench b;
  b.shape_ = shape, b.type_ = type;
  const int context = tokens > 1 ? tokens : position;
  const size_t size = DTypeBytes(type), rows = size_t(spans) * tokens;
  const size_t heads = shape.num_heads + 2 * size_t(shape.num_kv_heads);
  const size_t page = AttentionPageFloats(shape.num_kv_heads, shape.head_dim) * size;
  const int pages = context / kBlockTokens + 1;
  b.copies_ = tokens > 1 ? 1 : bench->Copies(double(spans) * pages * page, 1);
  BENCH_ASSIGN(b.pool_, PagePool::Make(bench, b.copies_, spans, pages, page, type));
  BENCH_ASSIGN(b.qkv_, bench->Random(rows * heads * shape.head_dim, type, 1.0f));
  BENCH_ASSIGN(b.rope_, bench->Random(rows * shape.head_dim, DType::kF32, 0.5f));
  BENCH_ASSIGN(b.out_, bench->Random(rows * shape.num_heads * shape.head_dim, type, 1.0f));
  const size_t scratch =
      gpu::AttentionScratchBytes(shape, spans, static_cast<int>(rows), context + kBlockTokens);
  BENCH_ASSIGN(b.scratch_, gpu::DeviceMemory::AllocateZeroed(scratch + 256, "scratch"));
  const std::vector<int> positions =
      tokens > 1 ? std::vector<int>(spans, 0) : DecodePositions(spans, position);
  for (int copy = 0; copy < b.copies_; ++copy) {
    BENCH_ASSIGN(SpanBatch batch, SpanBatch::Make(positions, tokens, copy * spans));
    b.batches_.push_back(std::move(batch));
  }
  return b;
}

absl::Status AttentionBench::Run(int copy, CudaStream stream) {
  const size_t size = DTypeBytes(type_), d = shape_.head_dim;
  const size_t q = shape_.num_heads * d, kv = shape_.num_kv_heads * d;
  const std::byte* rows = qkv_.data();
  const AttentionOperands operands{rows,
                                   rows + q * size,
                                   rows + (q + kv) * size,
                                   static_cast<int>(q + 2 * kv),
                                   reinterpret_cast<const float*>(rope_.data()),
                                   out_.data(),
                                   type_};
  return gpu::Attention(shape_, batches_[copy].view(), pool_.View(copy), operands, scratch_.data(),
                        stream);
}

}  // namespace packrat::gpu_bench
