#include "models/gpu/flights.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace packrat::gpu {

absl::StatusOr<std::unique_ptr<Flights>> Flights::Create(int max_spans, int max_rows) {
  std::unique_ptr<Flights> flights(new Flights(max_spans));
  const size_t bytes = max_spans * sizeof(SpanTotals) + max_rows * sizeof(SampledToken);
  auto device = DeviceMemory::AllocateZeroed(bytes, "results of steps");
  if (!device.ok()) return device.status();
  flights->device_ = *std::move(device);
  for (Flight& flight : flights->flights_) {
    auto results = PinnedMemory::Allocate(bytes, "results of steps");
    if (!results.ok()) return results.status();
    flight.results = *std::move(results);
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

absl::Status Flights::Start(int places, int spans, int rows, CudaStream stream) {
  Flight& flight = flights_[turn()];
  ++started_;
  flight.places = places;
  flight.spans = spans;
  flight.rows = rows;
  absl::Status status =
      CudaStatus(cudaMemcpyAsync(EndOfTotals(flight.results.data()) - places, totals(places),
                                 places * sizeof(SpanTotals) + rows * sizeof(SampledToken),
                                 cudaMemcpyDeviceToHost, stream),
                 "copying results");
  return status.ok() ? flight.done.Record(stream) : status;
}

absl::Status Flights::Finish(SpanStats* stats, SampledToken* sampled) {
  PACKRAT_CHECK(!none(), "nothing was started");
  Flight& flight = flights_[finished_++ % kMaxStepsInFlight];
  absl::Status status = flight.done.Wait("running a step");
  if (!status.ok()) return status;
  const SpanTotals* from = EndOfTotals(flight.results.data()) - flight.places;
  for (int i = 0; i < flight.spans; ++i) stats[i] = SpanStats(from[i]);
  std::copy_n(Sampled(flight.results.data()), flight.rows, sampled);
  return absl::OkStatus();
}

}  // namespace packrat::gpu
