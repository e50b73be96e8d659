// Memory that the system refuses while it is taken for one request ends that request, not the
// process.
#ifndef PACKRAT_RUNTIME_NO_MEMORY_H_
#define PACKRAT_RUNTIME_NO_MEMORY_H_

#include <new>

#include "absl/status/status.h"

namespace packrat {

// What `work`, which returns an absl::Status, says; RESOURCE_EXHAUSTED where it throws
// std::bad_alloc, before which it has left everything in order.
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
