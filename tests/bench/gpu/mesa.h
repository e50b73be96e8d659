// One Mesa layer's mixer with what it reads.
#ifndef PACKRAT_TESTS_BENCH_GPU_MESA_H_
#define PACKRAT_TESTS_BENCH_GPU_MESA_H_

#include <string>
#include <vector>

#include "tests/bench/gpu/bench.h"

namespace packrat::gpu_bench {

inline constexpr MesaShape kMesa{16, 128, 4};
inline constexpr MesaShape kTinyMesa{2, 16, 4};

class MesaBench {
 public:
  // `spans` sequences of a prompt of `prompt` tokens (whole blocks), fed if `only_prompt` is false;
  // decoding continues behind it.
  static absl::StatusOr<MesaBench> Make(Bench* bench, const MesaShape& shape, DType type,
                                        DType state, int spans, int prompt, bool only_prompt);
  int copies() const { return copies_; }
  // The 16 steps of a block, all copies (the layers of a model) in each: launch i of
  // 16 * copies().
  absl::Status RunDecode(int launch, CudaStream stream);
  absl::Status RunPrompt(CudaStream stream);
  // How many steps the solves took since the last call, in words.
  absl::StatusOr<std::string> Solves(double* steps = nullptr);

 private:
  absl::Status Run(const SpanBatch& batch, int copy, CudaStream stream);
  MesaShape shape_;
  DType type_, state_;
  int copies_ = 0, spans_ = 0;
  std::vector<SpanBatch> prompts_, decodes_;  // (copies); (copies, 16)
  gpu::DeviceMemory slots_, tails_, rows_, scalars_, conv_, lambda_, norm_, out_, stats_, scratch_;
};

}  // namespace packrat::gpu_bench

#endif  // PACKRAT_TESTS_BENCH_GPU_MESA_H_
