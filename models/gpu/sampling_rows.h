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

  // Room for lists of so many bytes in one step. If the memory has to grow, it waits for the stream
  // and sets *moved: what was captured with the old addresses is void. RESOURCE_EXHAUSTED: there is
  // not so much, and nothing has changed.
  absl::Status Reserve(size_t list_bytes, CudaStream stream, bool* moved);
  // Writes what the rows are sampled with to the host's side `turn` and queues its copy, which must
  // be done before that side is written again; rows from rows.size() to `places` are unused. There
  // must be room for their lists.
  absl::Status Upload(absl::Span<const SamplingRow> rows, int places, int turn, CudaStream stream);
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
  size_t bytes() const { return packed_.device.size() + results_.size(); }

 private:
  // Rows and lists, the same size on both sides.
  struct Packed {
    static absl::StatusOr<Packed> Allocate(size_t bytes);
    PinnedMemory host[kMaxStepsInFlight];
    DeviceMemory device;
  };
  explicit SamplingRows(size_t row_bytes) : row_bytes_(row_bytes) {}

  const size_t row_bytes_;  // Of as many rows as there may be, without lists.
  Packed packed_;
  PinnedMemory host_results_[kMaxStepsInFlight];
  DeviceMemory results_;
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_SAMPLING_ROWS_H_
