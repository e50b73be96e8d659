// What this machine can do at most, measured: the limits that every benchmark is held against.
#ifndef PACKRAT_TESTS_BENCH_MACHINE_H_
#define PACKRAT_TESTS_BENCH_MACHINE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/aligned.h"
#include "kernels/packed_matrix.h"
#include "kernels/thread_pool.h"

namespace packrat {

struct MachineLimits {
  double read_bytes_per_second;  // The larger of our own loop over 1 GB and `mbw` (0 if absent).
  double flops_per_second;       // The larger of our own FMA loop and OpenBLAS sgemm; float32.
  double own_read, mbw, own_fma, sgemm;
  // Our own loops of dot products, in tiles where CpuHasTiles(); 0 without CpuHasBFloat16().
  double bfloat16_flops_per_second, byte_ops_per_second;
};

// Reads 1 GiB in order with all threads, as fast as loads go.
class ReadLoop {
 public:
  explicit ReadLoop(int threads);
  double BytesPerSecond();  // Of one pass, made now.

 private:
  AlignedFloats memory_;
  ThreadPool pool_;
};

// Multiplies out of registers with all threads, as fast as instructions go.
class PeakLoop {
 public:
  // In float32 where the processor has no dot products of that arithmetic.
  PeakLoop(Arithmetic arithmetic, int threads);
  double OpsPerSecond();  // Of a tenth of a second, made now.

 private:
  float (*const loop_)(int64_t rounds, double* ops);
  ThreadPool pool_;
};

// `threads` as the model will use them.
MachineLimits MeasureMachine(int threads);

std::string CpuModelName();

double Median(std::vector<double> values);
// Seconds: the median over `runs` runs of `work` after one that does not count.
double MedianSeconds(int runs, const std::function<void()>& work);
double Now();  // Seconds, monotonic.

}  // namespace packrat

#endif  // PACKRAT_TESTS_BENCH_MACHINE_H_
