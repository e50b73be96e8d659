// If the system refuses memory for one request, that request ends, not the process.
#ifndef PACKRAT_RUNTIME_NO_MEMORY_H_
#define PACKRAT_RUNTIME_NO_MEMORY_H_

#include <new>

#include "absl/status/status.h"

namespace packrat {

// Returns what `work` returns, an absl::Status; RESOURCE_EXHAUSTED if it throws std::bad_alloc,
// before which it must leave everything in order.
template <typename Work>
absl::Status UnlessNoMemory(Work&& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("the system refuses the memory that this request takes");
  }
}

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_NO_MEMORY_H_
