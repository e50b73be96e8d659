// The rows of a step that are sampled: packed on the host, drawn on the device, brought back.
#ifndef PACKRAT_MODELS_GPU_SAMPLING_ROWS_H_
#define PACKRAT_MODELS_GPU_SAMPLING_ROWS_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/sampling.h"
#include "models/gpu/flights.h"
#include "models/gpu/memory.h"

namespace packrat::gpu {

class SamplingRows {
 public:
  static absl::StatusOr<std::unique_ptr<SamplingRows>> Create(int max_rows);

  // Writes what the rows are sampled with to the host's side `turn` and queues its copy, which must
  // be done before that side is written again; rows from rows.size() to `places` are unused. Lists
  // of unusual length make the memory grow, which waits for the stream: *moved is then set, and
  // what was captured with the old addresses is void.
  absl::Status Upload(absl::Span<const SamplingRow> rows, int places, int turn, CudaStream stream,
                      bool* moved);
  // Queues the drawing of `places` rows of `logits` (places, vocab).
  absl::Status Launch(int places, int vocab, float* logits, CudaStream stream) const;
  // Queues the copy back to the host's side `turn`; results() holds it when that is done.
  absl::Status Download(int rows, int turn, CudaStream stream);
  const SampledToken* results(int turn) const {
    return reinterpret_cast<const SampledToken*>(host_results_[turn].data());
  }
  // (places), of the last step: for the next, on the device.
  const SampledToken* device_results() const {
    return reinterpret_cast<const SampledToken*>(results_.data());
  }
  size_t bytes() const { return packed_.size() + results_.size(); }

 private:
  SamplingRows() = default;
  absl::Status Grow(size_t bytes);

  PinnedMemory host_packed_[kMaxStepsInFlight], host_results_[kMaxStepsInFlight];
  DeviceMemory packed_, results_;
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_SAMPLING_ROWS_H_
