// What tests may ask of the emulated device.
#ifndef PACKRAT_TESTS_EMULATION_EMULATION_H_
#define PACKRAT_TESTS_EMULATION_EMULATION_H_

#include <cstddef>
#include <cstdint>

#include "tests/emulation/cuda_runtime.h"

namespace emulation {

// The machine as the runtime describes it. Reset() between tests.
struct Machine {
  int devices = 1;
  size_t memory = size_t{1} << 30;  // Bytes; allocations beyond fail.
  int driver = 13000, runtime = 13000;
  int major = 9, minor = 0;
  int multiprocessors = 4;
  size_t shared_bytes = 0;  // Of a block; 0: what devices of this capability have.
};
extern Machine machine;
void Reset();

// The order in which the threads of a block take turns between barriers: 0 forwards, 1 backwards,
// else shuffled by this seed; and that of the blocks of a launch. A result that depends on it is a
// race.
void SetThreadOrder(uint64_t order);

// The next launch, or the next queued work of any kind, fails with `error` when it runs; as on a
// device, so does everything after it until Reset().
void FailNextWork(cudaError_t error);

// Since Reset().
struct Counters {
  int64_t launches = 0;              // Kernels that ran, those inside of graphs included.
  int64_t overlapping_launches = 0;  // Of these, that may begin before the one before has ended.
  int64_t graph_launches = 0;
  int64_t captures = 0;
  int64_t uploads = 0;  // Copies that ran from the host's memory to the device's.
  int64_t uploaded_bytes = 0;
  int64_t downloads = 0;  // And back.
  int64_t synchronisations = 0;
  int64_t allocations = 0;  // cudaMalloc and cudaHostAlloc.
};
extern Counters counters;

// The clock of events. Only products of the library take time, as much as a test says.
extern double milliseconds;

}  // namespace emulation

#endif  // PACKRAT_TESTS_EMULATION_EMULATION_H_
