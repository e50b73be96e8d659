// The kernel behind kernels/matmul_fused.h: that for few rows, with x made by each block, and with
// more made of its sums.
#ifndef PACKRAT_KERNELS_MATMUL_BF16_FUSED_CUH_
#define PACKRAT_KERNELS_MATMUL_BF16_FUSED_CUH_

#include "kernels/elementwise.h"
#include "kernels/gating.cuh"
#include "kernels/matmul_bf16_few.cuh"
#include "kernels/norm.cuh"

namespace packrat::gpu {

// What x is the norm of.
struct Bf16Norm {
  const float* x;
  const float* weight;
  float eps;
};

// Rows of x as the block makes them, eight at most, in shared memory.
class NormedRows {
 public:
  struct Chunk {
    int k;  // The first of the lane's elements.
  };

  // Odd rows begin half of the banks after even ones, so that the eight lanes that read of two
  // neighbouring rows meet all banks.
  static constexpr int Pitch(int chunks) { return chunks * kChunk + kChunk / 2; }
  static constexpr size_t Bytes(int rows, int chunks) {
    return static_cast<size_t>(rows) * Pitch(chunks) * sizeof(BFloat16);
  }

  __device__ __forceinline__ NormedRows(const Bf16Product& p, const BFloat16* rows)
      : row_(rows + Lane() / 4 * Pitch(p.chunks)), size_(Lane() / 4 < p.rows ? p.in : 0) {}

  // Nothing is loaded ahead: it is not far.
  __device__ __forceinline__ void Load(int chunk, bool, Chunk* to) const {
    to->k = chunk * kChunk + Lane() % 4 * 8;
  }
  __device__ __forceinline__ uint4 Eight(const Chunk& chunk, int half, int) const {
    const int k = chunk.k + half * 32;
    return k < size_ ? *reinterpret_cast<const uint4*>(row_ + k) : make_uint4(0, 0, 0, 0);
  }

  // All threads make the rows, which are there afterwards: a warp finds a row's scale, then all
  // write row after row. scales: (8) floats of shared memory, free again afterwards.
  static __device__ __forceinline__ void Make(const Bf16Product& p, const Bf16Norm& norm,
                                              float* scales, BFloat16* rows) {
    if (Warp() < p.rows) {
      const float* x = norm.x + static_cast<size_t>(Warp()) * p.in;
      const float scale =
          RmsScaleByWarp(p.in, norm.eps, [&](int i, float* v) { LoadGroupIf(x + i, i < p.in, v); });
      if (Lane() == 0) scales[Warp()] = scale;
    }
    __syncthreads();
    for (int row = 0; row < p.rows; ++row) {
      const float scale = scales[row];
      for (int i = threadIdx.x * kNormGroup; i < p.in; i += kNormStep) {
        float v[kNormGroup], w[kNormGroup];
        Load8(norm.x + static_cast<size_t>(row) * p.in + i, v);
        Load8(norm.weight + i, w);
#pragma unroll
        for (int j = 0; j < kNormGroup; ++j) v[j] = v[j] * scale * w[j];
        Store8(v, rows + row * Pitch(p.chunks) + i);
      }
    }
    __syncthreads();
  }

 private:
  // Eight neighbours, or zeros.
  static __device__ __forceinline__ void LoadGroupIf(const float* p, bool inside, float* v) {
    const uint4 a = LoadIf16(p, inside), b = LoadIf16(p + 4, inside);
    const unsigned words[kNormGroup] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int j = 0; j < kNormGroup; ++j) v[j] = __uint_as_float(words[j]);
  }

  const BFloat16* row_;
  int size_;
};
static_assert(kNormThreads == kBlockThreads);

// What becomes of a block's sums: 16 outputs of y, from out0 on.
struct PlainOutputs {
  static constexpr int kOutputs = kFewOutputs;

  static int Width(const Bf16Product& p) { return p.out; }
  __device__ __forceinline__ Bf16Weights<true>::Outputs Weights(const Bf16Product& p,
                                                                int out0) const {
    return {p, out0};
  }
  __device__ __forceinline__ void Finish(const Bf16Product& p, int out0,
                                         const PartSums<1>& parts) const {
    FinishOutputs(p, out0, 0, parts);
  }
};

// Or eight of a gated linear unit: the upper eight sums are of the products that go with the lower.
template <class Function>
struct GatedOutputs {
  static constexpr int kOutputs = kFewOutputs / 2;
  Function function;
  float scale;

  static int Width(const Bf16Product& p) { return p.out / 2; }
  __device__ __forceinline__ Bf16Weights<true>::Outputs Weights(const Bf16Product& p,
                                                                int out0) const {
    return {p, {out0, p.out / 2 + out0}, {p.out / 2, p.out}};
  }
  __device__ __forceinline__ void Finish(const Bf16Product& p, int out0,
                                         const PartSums<1>& parts) const {
    const int i = threadIdx.x % kOutputs, row = threadIdx.x / kOutputs;
    const int out = out0 + i, width = p.out / 2;
    if (out >= width || row >= p.rows) return;
    const float gate = Stored(p, out, parts.Total(i, row));
    const float up = Stored(p, width + out, parts.Total(kOutputs + i, row));
    static_cast<BFloat16*>(p.y)[static_cast<size_t>(row) * width + out] =
        FromFloat<BFloat16>(Gated(function, scale, gate, up));
  }

 private:
  // As Glu() finds it in memory.
  static __device__ __forceinline__ float Stored(const Bf16Product& p, int out, float sum) {
    return ToFloat(FromFloat<BFloat16>(Scaled(p, out, sum)));
  }
};

// While the block waits for the kernel before and for its norm, the weights that it needs first
// come nearer.
template <bool kNormed, class Outputs>
__global__ void __launch_bounds__(kBlockThreads, kFewBlocks)
    FusedBf16Kernel(Bf16Product p, Bf16Norm norm, Outputs outputs, int tiles) {
  using W = Bf16Weights<true>;
  auto* const shared = reinterpret_cast<float*>(SharedMemory());
  const auto weights_of = [&](int tile) { return outputs.Weights(p, tile * Outputs::kOutputs); };
  const auto finish = [&](int tile, const PartSums<1>& parts) {
    outputs.Finish(p, tile * Outputs::kOutputs, parts);
  };
  if constexpr (kNormed) {
    auto* rows = reinterpret_cast<BFloat16*>(SharedMemory() + PartSums<1>::kBytes);
    weights_of(blockIdx.x).Prefetch(PartBegin(p, Warp()), PartBegin(p, Warp() + 1));
    AwaitPrevious();
    NormedRows::Make(p, norm, shared, rows);
    MultiplyTiles<1, W>(
        p, tiles, NormedRows(p, rows), shared, weights_of, [] {}, finish);
  } else {
    MultiplyTiles<1, W>(
        p, tiles, InputRows<1, true>(p, 0), shared, weights_of, [] { AwaitPrevious(); }, finish);
  }
}

// Of the rows of x, so that with the sums it is what a block gets without asking for more, and two
// blocks have room in any multiprocessor.
constexpr size_t kMostNormedBytes = (48 << 10) - PartSums<1>::kBytes;

template <bool kNormed, class Outputs>
absl::Status LaunchFused(const Bf16Product& p, const Bf16Norm& norm, const Outputs& outputs,
                         CudaStream stream) {
  const int tiles = (Outputs::Width(p) + Outputs::kOutputs - 1) / Outputs::kOutputs;
  const size_t rows_bytes = kNormed ? NormedRows::Bytes(p.rows, p.chunks) : 0;
  return Launch("MatMul (bfloat16, fused)", FusedBf16Kernel<kNormed, Outputs>,
                FewRowsGrid(tiles, 1), kBlockThreads, PartSums<1>::kBytes + rows_bytes, stream, p,
                norm, outputs, tiles);
}

template <class Function>
absl::Status LaunchGated(const Bf16Product& p, const Bf16Norm& norm, float scale,
                         CudaStream stream) {
  const GatedOutputs<Function> outputs{Function(), scale};
  return norm.x != nullptr ? LaunchFused<true>(p, norm, outputs, stream)
                           : LaunchFused<false>(p, norm, outputs, stream);
}

inline absl::Status LaunchFused(const Bf16Product& p, const Bf16Norm& norm, const Gating* gating,
                                CudaStream stream) {
  if (gating == nullptr) return LaunchFused<true>(p, norm, PlainOutputs(), stream);
  switch (gating->function) {
    case GateFunction::kSilu:
      return LaunchGated<SiluOf>(p, norm, gating->scale, stream);
    case GateFunction::kGeluTanh:
      return LaunchGated<GeluTanhOf>(p, norm, gating->scale, stream);
  }
  return absl::OkStatus();
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MATMUL_BF16_FUSED_CUH_
