// The deadlines of calls, on the steady clock.
#ifndef PACKRAT_SERVER_GENERATION_CALL_DEADLINE_H_
#define PACKRAT_SERVER_GENERATION_CALL_DEADLINE_H_

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace packrat {

// Whether a call that arrived at `arrival` and is cancelled at `now` was cancelled by its deadline:
// the deadline has passed, or will pass within the time by which a client's deadline and the
// server's may differ.
bool CancelledByDeadline(absl::Time arrival, absl::Time deadline, absl::Time now);

// DEADLINE_EXCEEDED.
absl::Status DeadlineStatus();
// That of a call that is cancelled at `now`: by its deadline, or CANCELLED.
absl::Status CancelledStatus(absl::Time arrival, absl::Time deadline, absl::Time now);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_CALL_DEADLINE_H_
