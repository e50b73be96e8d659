// The clock of deadlines and durations. The wall clock can be set at any time, so only the dates of
// log lines come from it.
#ifndef PACKRAT_RUNTIME_STEADY_CLOCK_H_
#define PACKRAT_RUNTIME_STEADY_CLOCK_H_

#include <chrono>

#include "absl/time/time.h"

namespace packrat {

// std::chrono::steady_clock as an absl::Time. It is no date: compare it with its own readings only.
inline absl::Time SteadyNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_STEADY_CLOCK_H_
