// The clock of deadlines and durations. The wall clock can be set at any time, so it serves for the
// dates of log lines alone.
#ifndef PACKRAT_RUNTIME_STEADY_CLOCK_H_
#define PACKRAT_RUNTIME_STEADY_CLOCK_H_

#include <chrono>

#include "absl/time/time.h"

namespace packrat {

// Comes from std::chrono::steady_clock, and compares with itself alone: it is no date.
inline absl::Time SteadyNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_STEADY_CLOCK_H_
