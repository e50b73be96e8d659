// What the parts of the emulation share: the runtime's functions, what the device says of itself,
// and the fibers that run blocks.
#ifndef PACKRAT_TESTS_EMULATION_RUNTIME_H_
#define PACKRAT_TESTS_EMULATION_RUNTIME_H_

#include <cstddef>
#include <functional>

#include "tests/emulation/cuda_runtime.h"

namespace emulation {

// What a function of the runtime returns: what has broken the device, if anything has, else
// `error`, which cudaGetLastError() will say.
cudaError_t Return(cudaError_t error);

// Shared memory that a block may have, by compute capability.
size_t SharedLimit();

// Runs all blocks of a grid, one after the other. `overlaps`: it begins before the one before it
// has ended.
void RunGrid(dim3 grid, dim3 block, size_t shared_bytes, bool overlaps,
             const std::function<void()>& body);

}  // namespace emulation

#endif  // PACKRAT_TESTS_EMULATION_RUNTIME_H_
