// The deadlines of calls, on the steady clock.
#ifndef PACKRAT_SERVER_CALL_DEADLINE_H_
#define PACKRAT_SERVER_CALL_DEADLINE_H_

#include <grpc/support/time.h>

#include "absl/time/time.h"

namespace packrat {

// As SteadyNow(). InfiniteFuture() where there is none.
absl::Time SteadyDeadline(gpr_timespec deadline);

// A call that is cancelled so long before its deadline, or later, was cancelled by the deadline.
// `timeout`: from the call's arrival to its deadline.
absl::Duration DeadlineSlack(absl::Duration timeout);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CALL_DEADLINE_H_
