#ifndef PACKRAT_TESTS_BENCH_MAMBA2_BENCH_H_
#define PACKRAT_TESTS_BENCH_MAMBA2_BENCH_H_

#include "tests/bench/machine.h"

namespace packrat {

// Prints rows for the operation of kernels/mamba2.h with the shapes of public models: decoding of
// sequences whose states no cache holds, by bytes, and a prompt, by operations.
void BenchMamba2(int threads, const MachineLimits& limits);

}  // namespace packrat

#endif  // PACKRAT_TESTS_BENCH_MAMBA2_BENCH_H_
