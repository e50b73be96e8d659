#include "tests/bench/gpu/paged.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"

namespace packrat::gpu_bench {
namespace {

// The sequences of a layer.
struct Sequences {
  Sequences(const std::vector<int>& all, bool prompt) : lengths(all), tokens(prompt ? all[0] : 1) {}
  size_t rows() const { return lengths.size() * tokens; }
  // Where one in 16 is the last of its chunk.
  std::vector<int> Positions() const {
    std::vector<int> positions(lengths.size(), 0);
    for (size_t i = 0; i < lengths.size() && tokens == 1; ++i) {
      positions[i] = std::max(0, lengths[i] - 1 - static_cast<int>(i % 16));
    }
    return positions;
  }
  // Each with as many pages, of so many tokens, as it touches.
  std::vector<int> Pages(int page_tokens) const {
    std::vector<int> pages;
    for (const int length : lengths) pages.push_back(length / page_tokens + 1);
    return pages;
  }

  const std::vector<int>& lengths;
  const int tokens;  // Of each, in a launch.
};

// The list of a batch: of every copy, since their texts are as long.
absl::StatusOr<gpu::DeviceMemory> PlanWork(const gpu::AttendKind& kind,
                                           const Sequences& sequences) {
  std::vector<BatchSpan> spans;
  int context = 1;
  for (const int position : sequences.Positions()) {
    spans.push_back({0, sequences.tokens, position});
    context = std::max(context, position + sequences.tokens);
  }
  const auto n = static_cast<int>(spans.size());
  std::vector<gpu::AttendItem> items(gpu::AttendItems(kind, n, context));
  gpu::AttendPlanner(kind, n).Plan(spans, context, items.data());
  return ToDevice(items.data(), items.size() * sizeof(gpu::AttendItem));
}

size_t SumOf(const std::vector<int>& values) {
  return std::accumulate(values.begin(), values.end(), size_t{0});
}

}  // namespace

absl::StatusOr<PagePool> PagePool::Make(Bench* bench, int copies, const std::vector<int>& pages,
                                        size_t part_bytes, DType type, int layers) {
  PagePool pool;
  pool.part_bytes_ = part_bytes;
  pool.spans_ = pages.size();
  pool.layers_ = layers;
  const size_t page_bytes = layers * part_bytes;
  const int batches = copies / layers;
  const size_t wanted = batches * SumOf(pages);
  const auto most = static_cast<size_t>(bench->UsableBytes() / static_cast<double>(page_bytes));
  const size_t there = std::min(wanted, most);
  if (there < static_cast<size_t>(*std::max_element(pages.begin(), pages.end()))) {
    return absl::ResourceExhaustedError("one sequence's pages do not fit into device memory");
  }
  if (there < wanted) {
    pool.shared_ = absl::StrCat("sequences share pages: ", wanted * page_bytes >> 20,
                                " MiB are read from a pool of ", there * page_bytes >> 20, " MiB");
  }
  BENCH_ASSIGN(pool.pool_, bench->Random(there * page_bytes / DTypeBytes(type), type, 1.0f));
  std::vector<int32_t> order(there), dealt(wanted);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  for (size_t i = 0; i < wanted; ++i) dealt[i] = order[i % there];
  BENCH_ASSIGN(pool.pages_, ToDevice(dealt.data(), wanted * sizeof(int32_t)));
  std::vector<PageTable> tables;
  const auto* next = reinterpret_cast<const int32_t*>(pool.pages_.data());
  for (int batch = 0; batch < batches; ++batch) {
    for (const int count : pages) {
      tables.push_back({next, count});
      next += count;
    }
  }
  BENCH_ASSIGN(pool.tables_, ToDevice(tables.data(), tables.size() * sizeof(PageTable)));
  return pool;
}

StatePages PagePool::View(int copy) const {
  const auto* tables = reinterpret_cast<const PageTable*>(tables_.data());
  return {pool_.data() + copy % layers_ * part_bytes_, layers_ * part_bytes_,
          tables + copy / layers_ * spans_};
}

absl::StatusOr<RatBench> RatBench::Make(Bench* bench, const RatShape& shape, DType type,
                                        const std::vector<int>& lengths, bool prompt, int layers) {
  RatBench b;
  b.shape_ = shape, b.type_ = type;
  const Sequences sequences(lengths, prompt);
  const std::vector<int> pages = sequences.Pages(shape.chunk_size);
  const size_t size = DTypeBytes(type), rows = sequences.rows(), spans = lengths.size();
  const size_t width = size_t(shape.num_heads) * shape.head_dim;
  const size_t page = RatPageFloats(shape.num_heads, shape.head_dim) * size;
  const size_t tail = RatTailFloats(shape.num_heads, shape.head_dim) * 4;
  b.copies_ = prompt ? 1 : bench->Copies(double(SumOf(pages) * page + spans * tail), 1);
  if (layers > 1) b.copies_ = layers;
  BENCH_ASSIGN(b.pool_, PagePool::Make(bench, b.copies_, pages, page, type, layers));
  BENCH_ASSIGN(b.tails_, bench->Random(b.copies_ * spans * tail / 4, DType::kF32, 1.0f));
  BENCH_ASSIGN(b.projection_, bench->Random(rows * shape.projection(), type, 1.0f));
  BENCH_ASSIGN(b.gate_bias_, bench->Random(width, DType::kF32, 1.0f));
  BENCH_ASSIGN(b.rope_, bench->Random(rows * shape.head_dim, DType::kF32, 0.5f));
  BENCH_ASSIGN(b.out_, bench->Random(rows * width, type, 1.0f));
  const size_t scratch =
      gpu::RatScratchBytes(shape, type, static_cast<int>(spans), static_cast<int>(rows));
  BENCH_ASSIGN(b.scratch_, gpu::DeviceMemory::AllocateZeroed(scratch + 256, "scratch"));
  for (int copy = 0; copy < b.copies_; ++copy) {
    BENCH_ASSIGN(SpanBatch batch, SpanBatch::Make(sequences.Positions(), sequences.tokens,
                                                  copy * static_cast<int>(spans)));
    b.batches_.push_back(std::move(batch));
  }
  BENCH_ASSIGN(b.work_, PlanWork(gpu::RatKind(shape, type), sequences));
  return b;
}

absl::Status RatBench::Run(int copy, const void* projection, CudaStream stream) {
  const RatOperands operands{projection, reinterpret_cast<const float*>(gate_bias_.data()),
                             reinterpret_cast<const float*>(rope_.data()), out_.data(), type_};
  const StateParts tails{tails_.data(), RatTailFloats(shape_.num_heads, shape_.head_dim) * 4};
  return gpu::Rat(shape_, batches_[copy].view(), pool_.View(copy), tails, operands,
                  reinterpret_cast<const gpu::AttendItem*>(work_.data()), scratch_.data(), stream);
}

absl::StatusOr<RatPlusBench> RatPlusBench::Make(Bench* bench, const RatPlusShape& shape, DType type,
                                                const std::vector<int>& lengths) {
  RatPlusBench b;
  b.shape_ = shape, b.type_ = type;
  const Sequences sequences(lengths, /*prompt=*/false);
  const std::vector<int> pages = sequences.Pages(shape.dilation);
  const size_t size = DTypeBytes(type), spans = lengths.size();
  const size_t page = RatPageFloats(shape.num_heads, shape.head_dim) * size;
  const size_t tail = RatPlusTailBytes(shape, size);
  b.copies_ = bench->Copies(double(SumOf(pages) * page + spans * tail), 1);
  BENCH_ASSIGN(b.pool_, PagePool::Make(bench, b.copies_, pages, page, type));
  BENCH_ASSIGN(b.tails_, bench->Random(b.copies_ * spans * tail / size, type, 1.0f));
  BENCH_ASSIGN(b.qkv_, bench->Random(spans * 3 * shape.width(), type, 1.0f));
  BENCH_ASSIGN(b.rope_, bench->Random(spans * shape.head_dim, DType::kF32, 0.5f));
  BENCH_ASSIGN(b.out_, bench->Random(spans * shape.width(), type, 1.0f));
  const auto n = static_cast<int>(spans);
  const size_t scratch = gpu::RatPlusScratchBytes(shape, type, n, n);
  BENCH_ASSIGN(b.scratch_, gpu::DeviceMemory::AllocateZeroed(scratch + 256, "scratch"));
  for (int copy = 0; copy < b.copies_; ++copy) {
    BENCH_ASSIGN(SpanBatch batch, SpanBatch::Make(sequences.Positions(), 1, copy * n));
    b.batches_.push_back(std::move(batch));
  }
  BENCH_ASSIGN(b.work_, PlanWork(gpu::RatPlusKind(shape, type), sequences));
  return b;
}

absl::Status RatPlusBench::Run(int copy, CudaStream stream) {
  const size_t size = DTypeBytes(type_), width = shape_.width();
  const std::byte* rows = qkv_.data();
  const AttentionOperands operands{rows,
                                   rows + width * size,
                                   rows + 2 * width * size,
                                   static_cast<int>(3 * width),
                                   reinterpret_cast<const float*>(rope_.data()),
                                   out_.data(),
                                   type_};
  const StateParts tails{tails_.data(), RatPlusTailBytes(shape_, size)};
  return gpu::RatPlusAttention(shape_, batches_[copy].view(), pool_.View(copy), tails, operands,
                               reinterpret_cast<const gpu::AttendItem*>(work_.data()),
                               scratch_.data(), stream);
}

absl::StatusOr<AttentionBench> AttentionBench::Make(Bench* bench, const AttentionShape& shape,
                                                    DType type, const std::vector<int>& lengths,
                                                    bool prompt) {
  AttentionBench b;
  b.shape_ = shape, b.type_ = type;
  const Sequences sequences(lengths, prompt);
  const std::vector<int> pages = sequences.Pages(kBlockTokens);
  const size_t size = DTypeBytes(type), rows = sequences.rows();
  const size_t heads = shape.num_heads + 2 * size_t(shape.num_kv_heads);
  const size_t page = AttentionPageFloats(shape.num_kv_heads, shape.head_dim) * size;
  b.copies_ = prompt ? 1 : bench->Copies(double(SumOf(pages) * page), 1);
  BENCH_ASSIGN(b.pool_, PagePool::Make(bench, b.copies_, pages, page, type));
  BENCH_ASSIGN(b.qkv_, bench->Random(rows * heads * shape.head_dim, type, 1.0f));
  BENCH_ASSIGN(b.rope_, bench->Random(rows * shape.head_dim, DType::kF32, 0.5f));
  BENCH_ASSIGN(b.out_, bench->Random(rows * shape.num_heads * shape.head_dim, type, 1.0f));
  const auto spans = static_cast<int>(lengths.size());
  const size_t scratch = gpu::AttentionScratchBytes(shape, type, spans, static_cast<int>(rows));
  BENCH_ASSIGN(b.scratch_, gpu::DeviceMemory::AllocateZeroed(scratch + 256, "scratch"));
  for (int copy = 0; copy < b.copies_; ++copy) {
    BENCH_ASSIGN(SpanBatch batch,
                 SpanBatch::Make(sequences.Positions(), sequences.tokens, copy * spans));
    b.batches_.push_back(std::move(batch));
  }
  BENCH_ASSIGN(b.work_, PlanWork(gpu::AttentionKind(shape, type), sequences));
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
  return gpu::Attention(shape_, batches_[copy].view(), pool_.View(copy), operands,
                        reinterpret_cast<const gpu::AttendItem*>(work_.data()), scratch_.data(),
                        stream);
}

}  // namespace packrat::gpu_bench
