// Few rows, for kernels/matmul_bf16.cu: a block for 16 outputs and 8 kTiles rows, a warp for each
// part of the inner dimension; weights go from memory to registers.
#ifndef PACKRAT_KERNELS_MATMUL_BF16_FEW_CUH_
#define PACKRAT_KERNELS_MATMUL_BF16_FEW_CUH_

#include "kernels/matmul_bf16.cuh"

namespace packrat::gpu {

constexpr int kFewOutputs = 16;
static_assert(kParts == kBlockThreads / kWarp);

// Rows of x where a product finds them: they are loaded together with the weights. A lane with
// g = lane / 4 and t = lane % 4 multiplies by rows g + 8 i.
template <int kTiles, bool kWhole>
class InputRows {
 public:
  // A lane's shares of a chunk.
  struct Chunk {
    uint4 parts[2][kTiles];
  };

  __device__ __forceinline__ InputRows(const Bf16Product& p, int row0)
      : first_(p.x + static_cast<size_t>(row0 + Lane() / 4) * p.in), in_(p.in) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {  // Of no such row any element is inside.
      sizes_[i] = row0 + Lane() / 4 + 8 * i < p.rows ? p.in : 0;
    }
  }
  // Zero, and nothing is read, unless `inside`.
  __device__ __forceinline__ void Load(int chunk, bool inside, Chunk* to) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int k = inside ? chunk * kChunk + half * 32 + Lane() % 4 * 8 : in_;
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        to->parts[half][i] =
            LoadEight<kWhole>(first_ + static_cast<size_t>(8 * i) * in_, k, sizes_[i]);
      }
    }
  }
  __device__ __forceinline__ uint4 Eight(const Chunk& chunk, int half, int i) const {
    return chunk.parts[half][i];
  }

 private:
  const BFloat16* first_;
  int sizes_[kTiles], in_;
};

// The sums of a block's parts.
template <int kTiles>
struct PartSums {
  static constexpr int kRows = 8 * kTiles, kPitch = kRows + 1;
  static constexpr int kBytes = kParts * kFewOutputs * kPitch * static_cast<int>(sizeof(float));
  float* at;  // (kParts, 16, kPitch) in shared memory

  // Those of the warp's part.
  __device__ __forceinline__ void Store(const float (&sums)[kTiles][4]) const {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int out = Lane() / 4 + j / 2 * 8, row = i * 8 + 2 * (Lane() % 4) + j % 2;
        at[(Warp() * kFewOutputs + out) * kPitch + row] = sums[i][j];
      }
    }
  }
  __device__ __forceinline__ float Total(int out, int row) const {
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      sum += at[(part * kFewOutputs + out) * kPitch + row];
    }
    return sum;
  }
};

// All threads; afterwards the sums are there. Rows: InputRows, or what has the same functions. Of
// up to eight rows the first weights are loaded before rows_are_there() is called.
template <int kTiles, class W, class Rows, class Wait>
__device__ __forceinline__ void SumParts(const Bf16Product& p, const typename W::Outputs& weights,
                                         const Rows& rows, const PartSums<kTiles>& parts,
                                         const Wait& rows_are_there) {
  constexpr int kUnroll = W::kWhole ? 4 / kTiles : 1;  // Chunks that are loaded together.
  float sums[kTiles][4] = {};
  const int begin = PartBegin(p, Warp()), end = PartBegin(p, Warp() + 1);
  typename W::Chunk w[kUnroll];
  const auto load = [&](int chunk) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {  // Beyond the end of the part nothing is read.
      weights.Load(chunk + u, chunk + u < end, &w[u]);
    }
  };
  constexpr bool kAhead = kTiles == 1;  // With more rows there are too few registers.
  if constexpr (kAhead) load(begin);
  rows_are_there();
  for (int chunk = begin; chunk < end; chunk += kUnroll) {
    if constexpr (!kAhead) load(chunk);
    typename Rows::Chunk x[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) rows.Load(chunk + u, chunk + u < end, &x[u]);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (chunk + u >= end) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const typename W::Part part = w[u].part(half);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          const uint4 eight = rows.Eight(x[u], half, i);
          float x_sums[2];
          SumRows<W>(eight, x_sums);
          part.Multiply(eight, x_sums, sums[i]);
        }
      }
    }
    if constexpr (kAhead) load(chunk + kUnroll);
  }
  parts.Store(sums);
  __syncthreads();
}

template <int kTiles>
__device__ __forceinline__ void FinishOutputs(const Bf16Product& p, int out0, int row0,
                                              const PartSums<kTiles>& parts) {
  for (int i = threadIdx.x; i < kFewOutputs * parts.kRows; i += kBlockThreads) {
    const int out = i % kFewOutputs, row = i / kFewOutputs;
    if (out0 + out >= p.out || row0 + row >= p.rows) continue;
    Finish(p, row0 + row, out0 + out, parts.Total(out, row));
  }
}

template <int kTiles, class W>
__global__ void __launch_bounds__(kBlockThreads, 2) FewRowsBf16Kernel(Bf16Product p) {
  const PartSums<kTiles> parts{reinterpret_cast<float*>(SharedMemory())};
  const int out0 = blockIdx.x * kFewOutputs, row0 = blockIdx.y * parts.kRows;
  SumParts<kTiles, W>(p, typename W::Outputs(p, out0), InputRows<kTiles, W::kWhole>(p, row0), parts,
                      [] { AwaitPrevious(); });
  FinishOutputs(p, out0, row0, parts);
}

template <int kTiles, class W>
absl::Status LaunchFewRows(const Bf16Product& p, CudaStream stream) {
  using Parts = PartSums<kTiles>;
  const dim3 grid((p.out + kFewOutputs - 1) / kFewOutputs,
                  (p.rows + Parts::kRows - 1) / Parts::kRows);
  return Launch("MatMul (bfloat16, few rows)", FewRowsBf16Kernel<kTiles, W>, grid, kBlockThreads,
                Parts::kBytes, stream, p);
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MATMUL_BF16_FEW_CUH_
