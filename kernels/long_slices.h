// How threads that compute share processors with threads that answer.
#ifndef PACKRAT_KERNELS_LONG_SLICES_H_
#define PACKRAT_KERNELS_LONG_SLICES_H_

namespace packrat {

// Asks Linux for the longest slices of processor time for the calling thread. Its share of the time
// is as before. But from Linux 6.12 on, a thread that wakes with shorter slices, such as everybody
// else's, need not wait for the end of one: what sends a token to its client runs at once, and not
// some milliseconds later, beside as many computing threads as there are processors. Changes
// nothing on older systems, under a real-time policy, or where it is not allowed.
void AskForLongSlices();

}  // namespace packrat

#endif  // PACKRAT_KERNELS_LONG_SLICES_H_
