// Between the two halves of the emulation: the runtime's functions, and the fibers that run blocks.
#ifndef PACKRAT_TESTS_EMULATION_BLOCK_H_
#define PACKRAT_TESTS_EMULATION_BLOCK_H_

#include <functional>

#include "tests/emulation/cuda_runtime.h"

namespace emulation {

// Runs all blocks of a grid, one after the other. `overlaps`: it begins before the one before it
// has ended.
void RunGrid(dim3 grid, dim3 block, size_t shared_bytes, bool overlaps,
             const std::function<void()>& body);

}  // namespace emulation

#endif  // PACKRAT_TESTS_EMULATION_BLOCK_H_
