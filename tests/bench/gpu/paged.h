// Page pools with the tables of many batches, for the benchmarks of RAT and attention.
#ifndef PACKRAT_TESTS_BENCH_GPU_PAGED_H_
#define PACKRAT_TESTS_BENCH_GPU_PAGED_H_

#include <string>
#include <vector>

#include "tests/bench/gpu/bench.h"

namespace packrat::gpu_bench {

// Tables for `copies` batches of sequences, each with as many pages as `pages` says, over one pool.
// Pages lie in random order; where not all fit into memory, batches share pages (see shared()).
// A page has a part for each of `layers`, as those of a model have: a copy is one layer of a batch,
// and `copies` a multiple of them.
class PagePool {
 public:
  static absl::StatusOr<PagePool> Make(Bench* bench, int copies, const std::vector<int>& pages,
                                       size_t part_bytes, DType type, int layers = 1);
  StatePages View(int copy) const;
  // A note on sharing, or nothing.
  std::string shared() const { return shared_; }

 private:
  gpu::DeviceMemory pool_, pages_, tables_;
  size_t part_bytes_ = 0, spans_ = 0;
  int layers_ = 1;
  std::string shared_;
};

// One layer's mixer with what it reads, for decoding at the end of texts or for prompts.
class RatBench {
 public:
  // A sequence for each of `lengths`, in tokens: decoding its last ones (one in 16 ends a chunk),
  // or with `prompt` computing all of them, where all are as long. `layers`: PagePool's.
  static absl::StatusOr<RatBench> Make(Bench* bench, const RatShape& shape, DType type,
                                       const std::vector<int>& lengths, bool prompt,
                                       int layers = 1);
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
  gpu::DeviceMemory tails_, projection_, gate_bias_, rope_, out_, work_, scratch_;
};

// Decoding of a layer of RAT+, without its running average.
class RatPlusBench {
 public:
  static absl::StatusOr<RatPlusBench> Make(Bench* bench, const RatPlusShape& shape, DType type,
                                           const std::vector<int>& lengths);
  int copies() const { return copies_; }
  std::string note() const { return pool_.shared(); }
  absl::Status Run(int copy, CudaStream stream);

 private:
  RatPlusShape shape_;
  DType type_;
  int copies_ = 0;
  PagePool pool_;
  std::vector<SpanBatch> batches_;
  gpu::DeviceMemory tails_, qkv_, rope_, out_, work_, scratch_;
};

class AttentionBench {
 public:
  static absl::StatusOr<AttentionBench> Make(Bench* bench, const AttentionShape& shape, DType type,
                                             const std::vector<int>& lengths, bool prompt);
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
  gpu::DeviceMemory qkv_, rope_, out_, work_, scratch_;
};

}  // namespace packrat::gpu_bench

#endif  // PACKRAT_TESTS_BENCH_GPU_PAGED_H_
