#include "server/call_deadline.h"

namespace packrat {

absl::Time SteadyDeadline(gpr_timespec deadline) {
  // gRPC's monotonic clock is the one of std::chrono::steady_clock.
  const gpr_timespec steady = gpr_convert_clock_type(deadline, GPR_CLOCK_MONOTONIC);
  if (gpr_time_cmp(steady, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0) return absl::InfiniteFuture();
  return absl::UnixEpoch() + absl::Seconds(steady.tv_sec) + absl::Nanoseconds(steady.tv_nsec);
}

bool CancelledByDeadline(absl::Time arrival, absl::Time deadline, absl::Time now) {
  // The client hangs up by its own clock, whose deadline began before the call was on its way ...
  constexpr absl::Duration kAhead = absl::Milliseconds(20);
  // ... and which is exact, while gRPC sends a timeout to three digits, rounded up: of a second
  // and more, that is by a hundredth at most.
  return now >= deadline - kAhead - (deadline - arrival) / 100;
}

}  // namespace packrat
