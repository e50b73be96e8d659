#include "server/call_deadline.h"

namespace packrat {

absl::Time SteadyDeadline(gpr_timespec deadline) {
  // gRPC's monotonic clock is the one of std::chrono::steady_clock.
  const gpr_timespec steady = gpr_convert_clock_type(deadline, GPR_CLOCK_MONOTONIC);
  if (gpr_time_cmp(steady, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0) return absl::InfiniteFuture();
  return absl::UnixEpoch() + absl::Seconds(steady.tv_sec) + absl::Nanoseconds(steady.tv_nsec);
}

bool CancelledByDeadline(absl::Time arrival, absl::Time deadline, absl::Time now) {
  // The client cancels by its own clock, and its deadline began before the call was sent ...
  constexpr absl::Duration kAhead = absl::Milliseconds(20);
  // ... and is exact. gRPC sends the timeout with three digits, rounded up: from a second on, by at
  // most a hundredth.
  return now >= deadline - kAhead - (deadline - arrival) / 100;
}

}  // namespace packrat
