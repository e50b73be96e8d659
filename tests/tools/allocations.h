// Counts allocations: linking this library replaces the program's operator new.
#ifndef PACKRAT_TESTS_TOOLS_ALLOCATIONS_H_
#define PACKRAT_TESTS_TOOLS_ALLOCATIONS_H_

#include <cstdint>

namespace packrat {

// Calls of operator new so far, of all threads.
int64_t NumAllocations();
// Bytes that they asked for, given back or not.
int64_t NumAllocatedBytes();

}  // namespace packrat

#endif  // PACKRAT_TESTS_TOOLS_ALLOCATIONS_H_
