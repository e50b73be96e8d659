// Few rows, for kernels/matmul_bf16.cu: a block takes tiles of 16 outputs and 8 kTiles rows, one
// after the other, a warp each part of the inner dimension; weights go from memory to registers.
#ifndef PACKRAT_KERNELS_MATMUL_BF16_FEW_CUH_
#define PACKRAT_KERNELS_MATMUL_BF16_FEW_CUH_

#include <algorithm>

#include "kernels/matmul_bf16.cuh"

namespace packrat::gpu {

constexpr int kFewOutputs = 16;
constexpr int kFewBlocks = 2;  // Of a multiprocessor.
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

// The sums of a block's parts, of one tile.
template <int kTiles>
struct PartSums {
  static constexpr int kRows = 8 * kTiles, kPitch = kRows + 1;
  static constexpr int kFloats = kParts * kFewOutputs * kPitch;
  // Two tiles take turns: while some threads finish one, others store the next.
  static constexpr int kBytes = 2 * kFloats * static_cast<int>(sizeof(float));
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

// All threads, of a block of those of FewRowsGrid(). Rows: InputRows, or what has the same
// functions. weights_of(tile): the tile's W::Outputs; finish(tile, sums): what becomes of them, by
// all threads. shared: PartSums::kBytes. Of up to eight rows a tile's first weights are loaded
// before the sums of the tile before it are joined, and the first tile's before rows_are_there().
template <int kTiles, class W, class Rows, class WeightsOf, class Wait, class FinishTile>
__device__ __forceinline__ void MultiplyTiles(const Bf16Product& p, int tiles, const Rows& rows,
                                              float* shared, const WeightsOf& weights_of,
                                              const Wait& rows_are_there,
                                              const FinishTile& finish) {
  constexpr int kUnroll = W::kWhole ? 4 / kTiles : 1;  // Chunks that are loaded together.
  constexpr bool kAhead = kTiles == 1;  // With more rows there are too few registers.
  const int begin = PartBegin(p, Warp()), part_end = PartBegin(p, Warp() + 1);
  PartSums<kTiles> parts{shared};
  int tile = static_cast<int>(blockIdx.x);
  typename W::Outputs weights = weights_of(tile);
  typename W::Chunk w[kUnroll];
  const auto load = [&](int chunk, int end) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) weights.Load(chunk + u, chunk + u < end, &w[u]);
  };
  if constexpr (kAhead) load(begin, part_end);
  rows_are_there();
  while (tile < tiles) {
    float sums[kTiles][4] = {};
    for (int chunk = begin; chunk < part_end; chunk += kUnroll) {
      if constexpr (!kAhead) load(chunk, part_end);
      typename Rows::Chunk x[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) rows.Load(chunk + u, chunk + u < part_end, &x[u]);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (chunk + u >= part_end) break;
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
      if constexpr (kAhead) load(chunk + kUnroll, part_end);
    }
    const int next = tile + static_cast<int>(gridDim.x);
    weights = weights_of(next);
    if constexpr (kAhead) load(begin, next < tiles ? part_end : begin);
    parts.Store(sums);
    __syncthreads();
    finish(tile, parts);
    parts.at = parts.at == shared ? shared + parts.kFloats : shared;
    tile = next;
  }
}

// As many blocks as the device runs at once: what a block makes of x it makes once, and there is no
// second round of blocks that begins with empty hands.
inline dim3 FewRowsGrid(int tiles, int row_tiles) {
  const int at_once = kFewBlocks * Multiprocessors() / row_tiles;
  return dim3(at_once > 0 ? std::min(tiles, at_once) : tiles, row_tiles);
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
__global__ void __launch_bounds__(kBlockThreads, kFewBlocks)
    FewRowsBf16Kernel(Bf16Product p, int tiles) {
  const int row0 = blockIdx.y * PartSums<kTiles>::kRows;
  MultiplyTiles<kTiles, W>(
      p, tiles, InputRows<kTiles, W::kWhole>(p, row0), reinterpret_cast<float*>(SharedMemory()),
      [&](int tile) { return typename W::Outputs(p, tile * kFewOutputs); }, [] { AwaitPrevious(); },
      [&](int tile, const PartSums<kTiles>& parts) {
        FinishOutputs(p, tile * kFewOutputs, row0, parts);
      });
}

template <int kTiles, class W>
absl::Status LaunchFewRows(const Bf16Product& p, CudaStream stream) {
  using Parts = PartSums<kTiles>;
  const int tiles = (p.out + kFewOutputs - 1) / kFewOutputs;
  const dim3 grid = FewRowsGrid(tiles, (p.rows + Parts::kRows - 1) / Parts::kRows);
  return Launch("MatMul (bfloat16, few rows)", FewRowsBf16Kernel<kTiles, W>, grid, kBlockThreads,
                Parts::kBytes, stream, p, tiles);
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MATMUL_BF16_FEW_CUH_
