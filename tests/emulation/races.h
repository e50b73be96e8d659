// Races of emulated threads: what the fibers and the runtime tell the detector. Kernels that were
// compiled with -fsanitize=thread (RACE_COPTS of emulated.bzl) call it at each of their loads and
// stores; without any, nothing here does anything.
//
// A race is a pair of accesses to the same bytes of shared or global memory by two threads of a
// launch, at least one of them a store and not both atomic, that nothing orders: no __syncthreads()
// of the block, no __syncwarp() of the warp and, between blocks, no atomic operation on one word
// with __threadfence() before it in the one block and after it in the other. Shuffles, votes and
// products of a warp order no memory in CUDA, so they do not here. What is reported does not depend
// on the order in which threads ran, unless what they do does.
//
// Of a kernel that began while others were running, what it does before it waits for them is looked
// at too: it may read no global memory that they may still write, and write none.
#ifndef PACKRAT_TESTS_EMULATION_RACES_H_
#define PACKRAT_TESTS_EMULATION_RACES_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "tests/emulation/cuda_runtime.h"

namespace emulation {

// Counts what orders accesses, from 1.
using RaceTime = uint32_t;

// What came before these times in the block, or in the warp, comes before an access.
struct OrderedBefore {
  RaceTime block = 0, warp = 0;
};

// Instrumented code is there.
void EnableRaces();
// Its loads and stores; `place` is behind the instruction.
void RaceAccess(const void* memory, size_t bytes, bool write, const void* place);
// The place in the source, with those of the calls that were compiled into it; without addr2line,
// the file and the address in it.
std::string CodePlace(const void* place);

// Memory that all blocks of a launch share.
void WatchMemory(const void* memory, size_t bytes);
void ForgetMemory(const void* memory, size_t bytes);

// Work that begins when all before it on its stream has ended; what is written from here on may be
// on its way when a kernel begins that does not.
RaceTime RaceWorkAlone();
// Of that stream, before such a kernel runs.
void RaceWorkOverlaps(RaceTime alone);
// By a kernel that is not instrumented.
void RaceWrites(const void* memory, size_t bytes);
void RaceLaunchBegins();
// Ends the process if there were races in the launch; each was said when it was seen.
void RaceLaunchEnds();
void RaceBlockBegins(const std::byte* shared, size_t shared_bytes);
// The thread whose accesses follow, and its stack, which is nobody else's; -1: none.
void RaceThreadRuns(int thread, const std::byte* stack = nullptr, size_t stack_bytes = 0);
// Whether it may read and write all memory: it need not wait for the kernel before, or has.
void RaceThreadWaited(bool waited);
void RaceBlockMeets();
void RaceWarpMeets(int warp);

// For a copy by the thread that runs: what comes before its start, and its end. It may read and
// write at any time between.
OrderedBefore RaceCopyStarts();
void RaceCopyEnds(void* to, const void* from, size_t bytes, const OrderedBefore& start,
                  const void* place);

}  // namespace emulation

#endif  // PACKRAT_TESTS_EMULATION_RACES_H_
