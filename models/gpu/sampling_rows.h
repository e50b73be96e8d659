// The rows of a step that are sampled: packed on the host, drawn on the device, brought back.
#ifndef PACKRAT_MODELS_GPU_SAMPLING_ROWS_H_
#define PACKRAT_MODELS_GPU_SAMPLING_ROWS_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/sampling.h"
#include "models/gpu/memory.h"

namespace packrat::gpu {

class SamplingRows {
 public:
  static absl::StatusOr<std::unique_ptr<SamplingRows>> Create(int max_rows);

  // Queues the copy of what the rows are sampled with; rows from rows.size() to `places` are
  // unused. Lists of unusual length make the memory grow: *moved is then set, and what was captured
  // with the old addresses is void.
  absl::Status Upload(absl::Span<const SamplingRow> rows, int places, CudaStream stream,
                      bool* moved);
  // Queues the drawing of `places` rows of `logits` (places, vocab).
  absl::Status Launch(int places, int vocab, float* logits, CudaStream stream) const;
  // Queues the copy back; results() holds it when the stream is done.
  absl::Status Download(int rows, CudaStream stream);
  const SampledToken* results() const {
    return reinterpret_cast<const SampledToken*>(host_results_.data());
  }
  size_t bytes() const { return packed_.size() + results_.size(); }

 private:
  SamplingRows() = default;
  absl::Status Grow(size_t bytes);

  PinnedMemory host_packed_, host_results_;
  DeviceMemory packed_, results_;
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_SAMPLING_ROWS_H_
