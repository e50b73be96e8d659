// The steps between their start and their results: the host prepares one while another runs.
#ifndef PACKRAT_MODELS_GPU_FLIGHTS_H_
#define PACKRAT_MODELS_GPU_FLIGHTS_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/gpu.h"
#include "models/batch.h"
#include "models/gpu/memory.h"

namespace packrat::gpu {

inline constexpr int kMaxStepsInFlight = 2;

class Flights {
 public:
  // For steps of up to `max_spans` spans.
  static absl::StatusOr<std::unique_ptr<Flights>> Create(int max_spans);

  bool none() const { return started_ == finished_; }
  // Which of the host's kMaxStepsInFlight sides the next step is prepared on: no step in flight
  // reads or writes it.
  int turn() const;
  // Rows that the step before the next one samples, if it is in flight.
  int rows_before() const;

  // The next step is queued: queues the copy of `stats`, (spans), and marks the step's end.
  absl::Status Start(int spans, int rows, const SpanTotals* stats, CudaStream stream);
  // Waits for the earliest step in flight. `stats`: (spans); *rows of its results are on the side
  // *turn.
  absl::Status Finish(SpanStats* stats, int* turn, int* rows);

 private:
  struct Flight {
    int spans = 0, rows = 0;
    PinnedMemory stats;  // (max_spans) SpanTotals
    Event done;
  };
  Flights() = default;
  Flight flights_[kMaxStepsInFlight];
  int64_t started_ = 0, finished_ = 0;  // Steps.
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_FLIGHTS_H_
