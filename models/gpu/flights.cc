#include "models/gpu/flights.h"

#include <cuda_runtime_api.h>

#include <cstring>
#include <utility>

#include "kernels/check.h"

namespace packrat::gpu {

absl::StatusOr<std::unique_ptr<Flights>> Flights::Create(int max_spans) {
  std::unique_ptr<Flights> flights(new Flights);
  for (Flight& flight : flights->flights_) {
    auto stats = PinnedMemory::Allocate(max_spans * sizeof(SpanTotals), "statistics");
    if (!stats.ok()) return stats.status();
    flight.stats = *std::move(stats);
    auto done = Event::Create();
    if (!done.ok()) return done.status();
    flight.done = *std::move(done);
  }
  return flights;
}

int Flights::turn() const {
  PACKRAT_CHECK(started_ - finished_ < kMaxStepsInFlight, "too many steps in flight");
  return static_cast<int>(started_ % kMaxStepsInFlight);
}

int Flights::rows_before() const {
  return none() ? 0 : flights_[(started_ - 1) % kMaxStepsInFlight].rows;
}

absl::Status Flights::Start(int spans, int rows, const SpanTotals* stats, CudaStream stream) {
  Flight& flight = flights_[turn()];
  ++started_;
  flight.spans = spans;
  flight.rows = rows;
  absl::Status status =
      CudaStatus(cudaMemcpyAsync(flight.stats.data(), stats, spans * sizeof(SpanTotals),
                                 cudaMemcpyDeviceToHost, stream),
                 "copying statistics");
  return status.ok() ? flight.done.Record(stream) : status;
}

absl::Status Flights::Finish(SpanStats* stats, int* turn, int* rows) {
  PACKRAT_CHECK(!none(), "nothing was started");
  *turn = static_cast<int>(finished_++ % kMaxStepsInFlight);
  Flight& flight = flights_[*turn];
  *rows = flight.rows;
  absl::Status status = flight.done.Wait("running a step");
  if (!status.ok()) return status;
  const auto* from = reinterpret_cast<const SpanTotals*>(flight.stats.data());
  for (int i = 0; i < flight.spans; ++i) {
    stats[i] = SpanStats(from[i]);
  }
  return absl::OkStatus();
}

}  // namespace packrat::gpu
