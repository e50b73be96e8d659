// What a call's status is called, and when it is worth another try; the same for every front.
#ifndef PACKRAT_SERVER_GENERATION_CALL_STATUS_H_
#define PACKRAT_SERVER_GENERATION_CALL_STATUS_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace packrat {

// The code as clients see it: UNKNOWN, which says nothing, becomes INTERNAL.
absl::StatusCode WireCode(const absl::Status& status);

// "OK", "INVALID_ARGUMENT", ...: for the log and for metrics.
std::string StatusName(const absl::Status& status);

// How long a client that is refused should wait before it tries again: for RESOURCE_EXHAUSTED, in
// [kShortestRetryAfter, kLongestRetryAfter]. Nothing: the same call would fail again.
std::optional<absl::Duration> RetryDelay(const absl::Status& status);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_CALL_STATUS_H_
