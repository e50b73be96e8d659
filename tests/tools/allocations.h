// Counts allocations, and refuses some: linking this library replaces the program's operator new.
#ifndef PACKRAT_TESTS_TOOLS_ALLOCATIONS_H_
#define PACKRAT_TESTS_TOOLS_ALLOCATIONS_H_

#include <cstddef>
#include <cstdint>

namespace packrat {

// Calls of operator new so far, of all threads.
int64_t NumAllocations();
// Bytes that they asked for, given back or not.
int64_t NumAllocatedBytes();

// The calling thread's allocation number `n` from here on, from 0, throws std::bad_alloc; the ones
// after it succeed. Below 0: none does.
void FailAllocation(int64_t n);
// Whether it has come to that.
bool AllocationFailed();
// Every allocation of so many bytes or more throws, in all threads. 0: none does.
void FailAllocationsFrom(size_t bytes);

}  // namespace packrat

#endif  // PACKRAT_TESTS_TOOLS_ALLOCATIONS_H_
