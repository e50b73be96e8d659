// One Mesa layer's mixer with what it reads.
#ifndef PACKRAT_TESTS_BENCH_GPU_MESA_H_
#define PACKRAT_TESTS_BENCH_GPU_MESA_H_

#include <string>
#include <vector>

#include "tests/bench/gpu/bench.h"

namespace packrat::gpu_bench {

inline constexpr MesaShape kMesa{16, 128, 4};
inline constexpr MesaShape kTinyMesa{2, 16, 4};

// What is decoded behind, or computed.
struct MesaPrompts {
  int tokens;  // Of each: whole blocks.
  // The decay of a token is the sigmoid of numbers of this mean and standard deviation.
  float gamma = 2.0f, gamma_deviation = 0.5f;
};
// At 0.99 a token the last hundred or so count, where at the above it is eight: other systems, and
// solves of other lengths, behind a prompt that is long enough for them.
inline constexpr MesaPrompts kSlowDecay{512, 4.59512f, 0.0f};
inline constexpr MesaPrompts kTinySlowDecay{32, 4.59512f, 0.0f};

class MesaBench {
 public:
  // `spans` sequences of a prompt each, fed if `only_prompt` is false; decoding continues behind
  // it.
  static absl::StatusOr<MesaBench> Make(Bench* bench, const MesaShape& shape, DType type,
                                        DType state, int spans, const MesaPrompts& prompts,
                                        bool only_prompt);
  int copies() const { return copies_; }
  // The 16 steps of a block, all copies (the layers of a model) in each: launch i of
  // 16 * copies().
  absl::Status RunDecode(int launch, CudaStream stream);
  // As it was behind the prompts. The 16 steps end with a sealed block: what they are repeated on
  // would soon hold nothing but their own tokens.
  absl::Status Rewind(CudaStream stream);
  absl::Status RunPrompt(CudaStream stream);
  // How many steps the solves took since the last call, in words.
  absl::StatusOr<std::string> Solves(double* steps = nullptr);

 private:
  // Of the rows of activations, those from `first_row` on are the batch's.
  absl::Status Run(const SpanBatch& batch, int copy, size_t first_row, CudaStream stream);
  // In pieces, so that the scratch is no larger for a longer prompt.
  absl::Status FeedPrompts(int copy, int prompt, int piece, CudaStream stream);
  MesaShape shape_;
  DType type_, state_;
  int copies_ = 0, spans_ = 0;
  std::vector<SpanBatch> prompts_, decodes_;  // (1); (copies, 16)
  gpu::DeviceMemory fed_;  // Slots behind the prompts, which are the same in all copies.
  gpu::DeviceMemory slots_, tails_, rows_, beta_, gamma_, conv_, lambda_, norm_, out_, stats_,
      scratch_;
};

}  // namespace packrat::gpu_bench

#endif  // PACKRAT_TESTS_BENCH_GPU_MESA_H_
