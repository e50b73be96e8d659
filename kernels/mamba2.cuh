// What the kernels of mamba2.cu share beside the block form: their arguments, and the shared memory
// of a block of threads.
#ifndef PACKRAT_KERNELS_MAMBA2_CUH_
#define PACKRAT_KERNELS_MAMBA2_CUH_

#include "kernels/block_form.cuh"
#include "kernels/mamba2.h"

namespace packrat::gpu {

struct MambaArguments {
  Mamba2Shape shape;
  Mamba2Weights weights;
  BatchView batch;
  StateParts slots, tails;
  Mamba2Operands x;
  SpanTotals* totals;
};

// Shared memory of a block of ScanKernel, whose keys are B; N tokens read the state at once.
struct MambaShared : FormShared {
  float* c;         // (16, PN)
  float *x, *read;  // (16, 64)
  float* partial;   // (16 slices, N, 64)
  float* weights;   // (16, 16): `since` times the dot product of token t's C with token s's B
  __device__ __forceinline__ MambaShared(std::byte* at, int state_padded, int tokens_at_once)
      : FormShared(at, state_padded) {
    c = Take(kBlockTokens * state_padded);
    x = Take(kBlockTokens * kFormColumns), read = Take(kBlockTokens * kFormColumns);
    partial = Take(kFormSlices * tokens_at_once * kFormColumns);
    weights = Take(kBlockTokens * kBlockTokens);
  }
  static size_t Bytes(int state_padded, int tokens_at_once) {
    return sizeof(float) *
           (Floats(state_padded) +
            kBlockTokens * (static_cast<size_t>(state_padded) + 2 * kFormColumns + kBlockTokens) +
            static_cast<size_t>(kFormSlices) * tokens_at_once * kFormColumns);
  }
};

// What the heads share of batch row `row` (Mamba2TokenLayout).
__device__ __forceinline__ float* MemoryOf(const MambaArguments& a, int row) {
  return a.x.memory + static_cast<size_t>(row) * Mamba2TokenLayout(a.shape).end;
}

__device__ __forceinline__ ConvInput ConvOf(const MambaArguments& a, float* tail) {
  return {a.x.xbc,
          a.x.stride,
          a.x.type,
          tail + Mamba2TailLayout(a.shape).conv,
          a.weights.conv,
          a.weights.conv_bias,
          a.shape.channels(),
          a.shape.conv_size};
}

// dt of a token's head.
__device__ __forceinline__ float MambaStep(const MambaArguments& a, int row, int head) {
  const Mamba2Weights& w = a.weights;
  const float x =
      fmaf(a.x.dt[static_cast<size_t>(row) * a.x.dt_stride + head], w.dt_scale, w.dt_bias[head]);
  // A NaN passes: comparisons with it are false.
  float step = (x > 0.0f ? x : 0.0f) + log1pf(expf(-fabsf(x)));
  if (step < w.dt_min) step = w.dt_min;
  if (step > w.dt_max) step = w.dt_max;
  return step;
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MAMBA2_CUH_
