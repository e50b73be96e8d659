// The steps between their start and their results: the host prepares one while another runs. What a
// step brings back lies in one piece, so that it is one copy.
#ifndef PACKRAT_MODELS_GPU_FLIGHTS_H_
#define PACKRAT_MODELS_GPU_FLIGHTS_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/gpu.h"
#include "kernels/sampling.h"
#include "models/batch.h"
#include "models/gpu/memory.h"

namespace packrat::gpu {

inline constexpr int kMaxStepsInFlight = 2;

class Flights {
 public:
  // For steps of up to `max_spans` spans and `max_rows` sampled rows.
  static absl::StatusOr<std::unique_ptr<Flights>> Create(int max_spans, int max_rows);

  // Where a step leaves its results, on the device. The tokens stay until the next step's, which
  // reads them.
  SpanTotals* totals(int spans) const { return EndOfTotals(device_.data()) - spans; }  // (spans)
  SampledToken* sampled() const { return Sampled(device_.data()); }                    // (max_rows)
  size_t bytes() const { return device_.size(); }

  bool none() const { return started_ == finished_; }
  // Which of the host's kMaxStepsInFlight sides the next step is prepared on: no step in flight
  // reads or writes it.
  int turn() const;
  // Rows that the step before the next one samples, if it is in flight.
  int rows_before() const;

  // The next step is queued: queues the copy of totals(places), of which the first `spans` are
  // used, and of `rows` sampled tokens, and marks the step's end.
  absl::Status Start(int places, int spans, int rows, CudaStream stream);
  // Waits for the earliest step in flight. `stats`: (spans); `sampled`: (rows).
  absl::Status Finish(SpanStats* stats, SampledToken* sampled);

 private:
  struct Flight {
    int places = 0, spans = 0, rows = 0;
    PinnedMemory results;  // As device_.
    Event done;
  };
  explicit Flights(int max_spans) : max_spans_(max_spans) {}
  // Totals end where the tokens begin, so that no gap between them is copied.
  SpanTotals* EndOfTotals(std::byte* results) const {
    return reinterpret_cast<SpanTotals*>(results) + max_spans_;
  }
  SampledToken* Sampled(std::byte* results) const {
    return reinterpret_cast<SampledToken*>(EndOfTotals(results));
  }

  const int max_spans_;
  DeviceMemory device_;  // (max_spans) SpanTotals, (max_rows) SampledToken
  Flight flights_[kMaxStepsInFlight];
  int64_t started_ = 0, finished_ = 0;  // Steps.
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_FLIGHTS_H_
