// Products of bfloat16 on the tensor cores, in one order of additions for every number of rows.
//
// The inner dimension is cut into chunks of 64, and the chunks into kParts runs of equal length. A
// run is one chain of MmaBf16() over its chunks; the runs' sums are added to zero in order. With
// few rows each warp of a block takes a run; with many, every warp takes one run after the other.
//
// A lane moves eight neighbours of a row of either operand at a time: its shares of two
// multiplications of depth 16. Which k these call the first or the last does not matter as long as
// both operands agree.
//
// Of quantised weights a run is one chain over its groups of 32 inputs instead, in order:
//   sum = fma(scale, q x', sum), int4: then fma(minimum, 1 x', sum)
// where a group's products q x' and 1 x' are two of MmaBf16() that begin with zero.
#include "kernels/check.h"
#include "kernels/device.cuh"
#include "kernels/matmul_bf16.cuh"
#include "kernels/matmul_bf16_few.cuh"
#include "kernels/matmul_bf16_fused.cuh"
#include "kernels/matmul_fused.h"
#include "kernels/matmul_own.h"

namespace packrat::gpu {
namespace {

constexpr int kThreads = kBlockThreads;

bool Aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
bool WholeWeight(const Weight& w) { return w.in % 8 == 0 && Aligned(w.data); }
bool Whole(const MatMulArguments& m) { return WholeWeight(*m.weight) && Aligned(m.x); }

int ChunksOf(const Weight& w) { return (w.in + kChunk - 1) / kChunk; }

Bf16Product ToProduct(const MatMulArguments& m) {
  return {m.weight->data,
          static_cast<const BFloat16*>(m.x),
          m.y,
          m.bias,
          m.rows,
          m.weight->out,
          m.weight->in,
          ChunksOf(*m.weight),
          m.y_type == DType::kF32,
          m.accumulate,
          m.scale};
}

// --- Many rows: a block for a tile of (128 outputs, 64 rows), a warp for (32, 32) of it; chunks
// come to shared memory kStages ahead. ---

constexpr int kBlocks = 2;  // Of a multiprocessor.
constexpr int kTileOutputs = 128, kTileRows = 64, kStages = 4;
constexpr int kOutputPitch = kTileOutputs + 4;  // Of the finished tile in shared memory.

// A stage: the chunk's weights, then its lines of x.
template <class W>
struct Stage {
  static constexpr int kWeightBytes = W::template StageBytes<kTileOutputs>();
  static constexpr int kBytes = kWeightBytes + kTileRows * kLineBytes;
  static_assert(kWeightBytes % 128 == 0);
  // The finished tile: in the place of stages that nobody reads any more, or behind them.
  static constexpr int kTileAt = W::kTotalsInRegisters ? 0 : kStages * kBytes;
  static constexpr int kTileBytes = kTileRows * kOutputPitch * 4;
  static_assert(kTileBytes <= kStages * kBytes);
  static constexpr int kSharedBytes = kTileAt == 0 ? kStages * kBytes : kTileAt + kTileBytes;
  static_assert(kSharedBytes <= 99 * 1024);  // The most of a block on sm_86, sm_89 and sm_120.
  // Two blocks hide each other's loads. There, and on an A100 (164 KB), a multiprocessor holds one.
  static_assert(kBlocks * (kSharedBytes + kReservedShared) <= kSharedOfSm90);

  static __device__ __forceinline__ void Load(const Bf16Product& p, int out0, int row0, int chunk,
                                              std::byte* stage) {
    W::template LoadStage<kTileOutputs>(p, out0, chunk, stage);
    LoadLines<kTileRows, W::kWhole>(p.x, row0, p.rows, p.in, chunk, stage + kWeightBytes);
  }
};

// sums (2 x 16 outputs, 4 x 8 rows) += over one chunk, of outputs and rows of the stage from these
// on.
template <class W>
__device__ __forceinline__ void MultiplyChunk(std::byte* stage, int output, int row,
                                              float (&sums)[2][4][4]) {
  [[maybe_unused]] constexpr int kHalves = W::kTotalsInRegisters ? 2 : 1;
  std::byte* lines = stage + Stage<W>::kWeightBytes;
  const int g = Lane() / 4, t = Lane() % 4;
#pragma unroll kHalves
  for (int half = 0; half < 2; ++half) {
    typename W::Part w[2];
    uint4 x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < 2) w[i] = W::FromStage(stage, output + 16 * i, half);
      x[i] = *reinterpret_cast<const uint4*>(Piece(lines, row + 8 * i + g, half * 4 + t));
    }
    float x_sums[4][2];
#pragma unroll
    for (int j = 0; j < 4; ++j) SumRows<W>(x[j], x_sums[j]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) w[i].Multiply(x[j], x_sums[j], sums[i][j]);
    }
  }
}

// Where the i-th of a lane's 32 sums belongs in the finished tile, (rows, kOutputPitch).
__device__ __forceinline__ int TileAt(int output, int row, int i) {
  const int o = output + i / 16 * 16 + i / 2 % 2 * 8 + Lane() / 4;
  const int r = row + i / 4 % 4 * 8 + Lane() % 4 * 2 + i % 2;
  return r * kOutputPitch + o;
}

template <class W>
__global__ void __launch_bounds__(kThreads, kBlocks) ManyRowsBf16Kernel(Bf16Product p) {
  AwaitPrevious();
  constexpr int kStageBytes = Stage<W>::kBytes;
  std::byte* shared = SharedMemory();
  auto* tile = reinterpret_cast<float*>(shared + Stage<W>::kTileAt);
  const int out0 = blockIdx.x * kTileOutputs, row0 = blockIdx.y * kTileRows;
  const int output = Warp() % 4 * 32, row = Warp() / 4 * 32;  // Of the warp, in the tile.
  float sums[2][4][4] = {}, totals[2][4][4] = {};
  int part = 0, part_end = PartBegin(p, 1);
  const auto end_part = [&] {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      float& sum = sums[i / 16][i / 4 % 4][i % 4];
      if constexpr (W::kTotalsInRegisters) {
        totals[i / 16][i / 4 % 4][i % 4] += sum;
      } else {
        float& total = tile[TileAt(output, row, i)];
        total = (part == 0 ? 0.0f : total) + sum;
      }
      sum = 0.0f;
    }
  };
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < p.chunks) Stage<W>::Load(p, out0, row0, s, shared + s * kStageBytes);
    CopyAsyncCommit();
  }
  for (int chunk = 0; chunk < p.chunks; ++chunk) {
    CopyAsyncWait<kStages - 2>();
    __syncthreads();  // Also: nobody reads any more what comes next.
    const int next = chunk + kStages - 1;
    if (next < p.chunks) {
      Stage<W>::Load(p, out0, row0, next, shared + next % kStages * kStageBytes);
    }
    CopyAsyncCommit();
    while (chunk == part_end) {  // A part may be empty.
      end_part();
      part_end = PartBegin(p, ++part + 1);
    }
    MultiplyChunk<W>(shared + chunk % kStages * kStageBytes, output, row, sums);
  }
  end_part();
  // Through shared memory, so that neighbouring threads write neighbouring outputs.
  if constexpr (W::kTotalsInRegisters) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 32; ++i) tile[TileAt(output, row, i)] = totals[i / 16][i / 4 % 4][i % 4];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTileRows * kTileOutputs; i += kThreads) {
    const int r = i / kTileOutputs, o = i % kTileOutputs;
    if (out0 + o >= p.out || row0 + r >= p.rows) continue;
    Finish(p, row0 + r, out0 + o, tile[r * kOutputPitch + o]);
  }
}

template <class W>
absl::Status LaunchManyRows(const Bf16Product& p, CudaStream stream) {
  const dim3 grid((p.out + kTileOutputs - 1) / kTileOutputs, (p.rows + kTileRows - 1) / kTileRows);
  return Launch("MatMul (bfloat16)", ManyRowsBf16Kernel<W>, grid, kThreads, Stage<W>::kSharedBytes,
                stream, p);
}

template <class W>
absl::Status LaunchAnyRows(const Bf16Product& p, CudaStream stream) {
  if (p.rows <= 8) return LaunchFewRows<1, W>(p, stream);
  if (p.rows <= 16) return LaunchFewRows<2, W>(p, stream);
  // The kernel for few rows reads x again for each 16 outputs; that for many leaves most
  // multiprocessors idle where its tiles are few.
  const int64_t tiles =
      int64_t{(p.out + kTileOutputs - 1) / kTileOutputs} * ((p.rows + kTileRows - 1) / kTileRows);
  // The sums of x that minima are multiplied by leave no registers for four tiles of rows.
  constexpr int kMostTiles = W::kHasMinimum ? 2 : 4;
  if (p.rows <= 32 || (p.rows <= 128 && tiles < 32)) {
    return LaunchFewRows<kMostTiles, W>(p, stream);
  }
  return LaunchManyRows<W>(p, stream);
}

}  // namespace

absl::Status MultiplyBf16(const MatMulArguments& arguments, CudaStream stream) {
  const Bf16Product p = ToProduct(arguments);
  const DType type = arguments.weight->type;
  if (IsQuantized(type)) {
    PACKRAT_CHECK(Whole(arguments) && p.in % kQuantGroup == 0);
    return type == DType::kInt8 ? LaunchAnyRows<QuantWeights<DType::kInt8>>(p, stream)
                                : LaunchAnyRows<QuantWeights<DType::kInt4>>(p, stream);
  }
  if (Whole(arguments)) return LaunchAnyRows<Bf16Weights<true>>(p, stream);
  return p.rows <= 32 ? LaunchFewRows<1, Bf16Weights<false>>(p, stream)
                      : LaunchManyRows<Bf16Weights<false>>(p, stream);
}

static_assert(kFewRows == PartSums<1>::kRows);

bool CanMultiplyFused(const FusedProduct& fused) {
  const MatMulArguments& m = fused.product;
  const Weight& w = *m.weight;
  const bool normed = fused.norm_x != nullptr, gated = fused.gating != nullptr;
  if (m.type != DType::kBF16 || w.type != DType::kBF16 || !WholeWeight(w) || m.rows > kFewRows) {
    return false;
  }
  if (normed && (!Aligned(fused.norm_x) || !Aligned(fused.norm_weight) ||
                 NormedRows::Bytes(m.rows, ChunksOf(w)) > kMostNormedBytes)) {
    return false;
  }
  if (gated && (w.out % 2 != 0 || m.y_type != DType::kBF16)) return false;
  return normed || (gated && Aligned(m.x));
}

absl::Status MultiplyFused(const FusedProduct& fused, CudaStream stream) {
  PACKRAT_CHECK(CanMultiplyFused(fused));
  const MatMulArguments& m = fused.product;
  PACKRAT_CHECK(!m.accumulate || m.y_type == DType::kF32);
  if (m.rows == 0) return absl::OkStatus();
  const Bf16Norm norm{fused.norm_x, fused.norm_weight, fused.norm_eps};
  return LaunchFused(ToProduct(m), norm, fused.gating, stream);
}

}  // namespace packrat::gpu
