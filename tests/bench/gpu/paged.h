// Page pools with the tables of many batches, for the benchmarks of RAT and attention.
#ifndef PACKRAT_TESTS_BENCH_GPU_PAGED_H_
#define PACKRAT_TESTS_BENCH_GPU_PAGED_H_

#include <string>
#include <vector>

#include "tests/bench/gpu/bench.h"

namespace packrat::gpu_bench {

// Tables for `copies` batches of `spans` sequences with `pages_each` pages, over one pool. Pages
// lie in random order; where not all fit into memory, batches share pages (see shared()).
class PagePool {
 public:
  static absl::StatusOr<PagePool> Make(Bench* bench, int copies, int spans, int pages_each,
                                       size_t page_bytes, DType type);
  StatePages View(int copy) const;
  // A note on sharing, or nothing.
  std::string shared() const { return shared_; }

 private:
  gpu::DeviceMemory pool_, pages_, tables_;
  size_t page_bytes_ = 0;
  int spans_ = 0, pages_each_ = 0;
  std::string shared_;
};

// One layer's mixer with what it reads, for decoding at a position or for a prompt.
class RatBench {
 public:
  // tokens 1: `spans` sequences at `position` (one in 16 ends a chunk); else prompts of so many
  // tokens from position 0.
  static absl::StatusOr<RatBench> Make(Bench* bench, const RatShape& shape, DType type, int spans,
                                       int position, int tokens);
  int copies() const { return copies_; }
  std::string note() const { return pool_.shared(); }
  absl::Status Run(int copy, CudaStream stream) { return Run(copy, projection_.data(), stream); }
  // With a projection made by a product before it.
  absl::Status Run(int copy, const void* projection, CudaStream stream);
  std::byte* out() const { return out_.data(); }
  std::byte* projection() const { return projection_.data(); }

 private:
  RatShape shape_;
  DType type_;
  int copies_ = 0;
  PagePool pool_;
  std::vector<SpanBatch> batches_;  // One for each copy: each has tails of its own.
  gpu::DeviceMemory tails_, projection_, gate_bias_, rope_, out_, scratch_;
};

class AttentionBench {
 public:
  static absl::StatusOr<AttentionBench> Make(Bench* bench, const AttentionShape& shape, DType type,
                                             int spans, int position, int tokens);
  int copies() const { return copies_; }
  std::string note() const { return pool_.shared(); }
  absl::Status Run(int copy, CudaStream stream);
  std::byte* out() const { return out_.data(); }
  std::byte* qkv() const { return qkv_.data(); }

 private:
  AttentionShape shape_;
  DType type_;
  int copies_ = 0;
  PagePool pool_;
  std::vector<SpanBatch> batches_;
  gpu::DeviceMemory qkv_, rope_, out_, scratch_;
};

// Positions of decoding sequences: one in 16 is the last of its chunk, of at most `position`.
std::vector<int> DecodePositions(int spans, int position);

}  // namespace packrat::gpu_bench

#endif  // PACKRAT_TESTS_BENCH_GPU_PAGED_H_
