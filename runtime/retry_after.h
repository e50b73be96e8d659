// When a refused request is worth another try: carried by its status.
#ifndef PACKRAT_RUNTIME_RETRY_AFTER_H_
#define PACKRAT_RUNTIME_RETRY_AFTER_H_

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace packrat {

// What a caller is told to wait where nothing better is known.
inline constexpr absl::Duration kDefaultRetryAfter = absl::Seconds(1);

// `status` is not OK. What is told is in [kShortestRetryAfter, kLongestRetryAfter], in whole
// milliseconds.
inline constexpr absl::Duration kShortestRetryAfter = absl::Milliseconds(500);
inline constexpr absl::Duration kLongestRetryAfter = absl::Minutes(1);
absl::Status WithRetryAfter(absl::Status status, absl::Duration after);

absl::Duration RetryAfter(const absl::Status& status);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_RETRY_AFTER_H_
