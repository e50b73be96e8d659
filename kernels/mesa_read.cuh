// The read-out of mesa.cu: x_t' H_kv for the solutions x_t that mesa_solve.cuh leaves in shared
// memory, by the same block of P threads.
#ifndef PACKRAT_KERNELS_MESA_READ_CUH_
#define PACKRAT_KERNELS_MESA_READ_CUH_

#include "kernels/mesa_solve.cuh"

namespace packrat::gpu {

// partial: (4, N, P): exp(G_t) aside, what each quarter of H_kv's rows gives to x_t' H_kv. After a
// barrier behind the writing of x.
template <int P, int N, class S>
__device__ __forceinline__ void ReadSealed(const MesaShared<P, N>& shared, const S* hkv, int stored,
                                           float* partial) {
  const int quarter = threadIdx.x / (P / 4), column = threadIdx.x % (P / 4) * 4;
  float sums[N][4] = {};
  if (column < stored) {
    const int end = min((quarter + 1) * (P / 4), stored);
#pragma unroll 2
    for (int row = quarter * (P / 4); row < end; row += 4) {
      float h[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        Load4(hkv + static_cast<size_t>(row + i) * stored + column, h[i]);
      }
#pragma unroll
      for (int t = 0; t < N; ++t) {
        float x[4];
        Load4(&shared.x[t * P + row], x);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int c = 0; c < 4; ++c) sums[t][c] = fmaf(x[i], h[i][c], sums[t][c]);
        }
      }
    }
  }
#pragma unroll
  for (int t = 0; t < N; ++t) {
    *reinterpret_cast<float4*>(&partial[(quarter * N + t) * P + column]) =
        make_float4(sums[t][0], sums[t][1], sums[t][2], sums[t][3]);
  }
}

// This channel of x_t' H_kv, from the four parts of ReadSealed() and the tail.
template <int P, int N>
__device__ __forceinline__ float ReadOut(const MesaShared<P, N>& shared, const float* partial,
                                         bool sealed, int t, const float (&v)[kBlockTokens]) {
  float sum = 0.0f;
  if (sealed) {
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {
      sum += partial[(quarter * N + t) * P + threadIdx.x];
    }
    sum *= shared.decay[t];
  }
  return AddTail(shared, t, v, sum);
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MESA_READ_CUH_
