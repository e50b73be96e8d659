#include "server/generation/call_deadline.h"

namespace packrat {

bool CancelledByDeadline(absl::Time arrival, absl::Time deadline, absl::Time now) {
  // The client cancels by its own clock, and its deadline began before the call was sent ...
  constexpr absl::Duration kAhead = absl::Milliseconds(20);
  // ... and is exact. gRPC sends the timeout with three digits, rounded up: from a second on, by at
  // most a hundredth.
  return now >= deadline - kAhead - (deadline - arrival) / 100;
}

absl::Status DeadlineStatus() {
  return absl::DeadlineExceededError("the deadline passed before the end of the call");
}

absl::Status CancelledStatus(absl::Time arrival, absl::Time deadline, absl::Time now) {
  // A front may cancel a call whose deadline has passed, as gRPC does.
  if (CancelledByDeadline(arrival, deadline, now)) return DeadlineStatus();
  return absl::CancelledError("cancelled by the client");
}

}  // namespace packrat
