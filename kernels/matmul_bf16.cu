// Products of bfloat16 on the tensor cores, in one order of additions for every number of rows.
//
// The inner dimension is cut into chunks of 64, and the chunks into kParts runs of equal length. A
// run is one chain of MmaBf16() over its chunks; the runs' sums are added to zero in order. With
// few rows each warp of a block takes a run; with many, every warp takes one run after the other.
//
// A lane moves eight neighbours of a row of either operand at a time: its shares of two
// multiplications of depth 16. Which k these call the first or the last does not matter as long as
// both operands agree.
#include "kernels/device.cuh"
#include "kernels/matmul_own.h"

namespace packrat::gpu {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kChunk = 64, kParts = 8;
static_assert(kParts == kWarps);

// A product as the kernels see it.
struct Product {
  const BFloat16* weight;
  const BFloat16* x;
  void* y;
  const float* bias;
  int rows, out, in, chunks;
  bool y_is_float, accumulate;
  float scale;
};

bool Whole(const MatMulArguments& m) {
  return m.weight->in % 8 == 0 && reinterpret_cast<uintptr_t>(m.weight->data) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(m.x) % 16 == 0;
}

Product ToProduct(const MatMulArguments& m) {
  return {static_cast<const BFloat16*>(m.weight->data),
          static_cast<const BFloat16*>(m.x),
          m.y,
          m.bias,
          m.rows,
          m.weight->out,
          m.weight->in,
          (m.weight->in + kChunk - 1) / kChunk,
          m.y_type == DType::kF32,
          m.accumulate,
          m.scale};
}

// The first chunk of a part; that of part kParts is the number of chunks.
__device__ __forceinline__ int PartBegin(const Product& p, int part) {
  return static_cast<int>(static_cast<int64_t>(part) * p.chunks / kParts);
}

__device__ __forceinline__ void Finish(const Product& p, int row, int out, float sum) {
  const size_t at = static_cast<size_t>(row) * p.out + out;
  if (p.bias != nullptr) sum += p.bias[out];
  sum *= p.scale;
  if (p.y_is_float) {
    float& y = static_cast<float*>(p.y)[at];
    y = p.accumulate ? y + sum : sum;
  } else {
    static_cast<BFloat16*>(p.y)[at] = FromFloat<BFloat16>(sum);
  }
}

// Elements k to k + 7 of a row of n; zero beyond. kWhole: eight can be moved at a time.
template <bool kWhole>
__device__ __forceinline__ uint4 LoadEight(const BFloat16* row, int k, int n) {
  if constexpr (kWhole) {
    return LoadIf16(row + k, k < n);
  } else {
    BFloat16 halves[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) halves[i] = k + i < n ? row[k + i] : FromFloat<BFloat16>(0.0f);
    uint4 packed;
    memcpy(&packed, halves, sizeof packed);
    return packed;
  }
}

// sums (16 outputs, 8 rows) += over 32 k. Of the lane with g = lane / 4: its eight neighbours of
// weight rows g and g + 8, and of row g of x.
__device__ __forceinline__ void MultiplyEight(const uint4& low, const uint4& high, const uint4& x,
                                              float (&sums)[4]) {
  const unsigned a0[4] = {low.x, high.x, low.y, high.y}, b0[2] = {x.x, x.y};
  const unsigned a1[4] = {low.z, high.z, low.w, high.w}, b1[2] = {x.z, x.w};
  MmaBf16(a0, b0, sums);
  MmaBf16(a1, b1, sums);
}

// --- Few rows: a block for 16 outputs and 8 kTiles rows, a warp for each part of the inner
// dimension; operands go from memory to registers. ---

constexpr int kFewOutputs = 16;

template <int kTiles, bool kWhole>
__global__ void __launch_bounds__(kThreads, 2) FewRowsBf16Kernel(Product p) {
  constexpr int kUnroll = kWhole ? 4 / kTiles : 1;  // Chunks that are loaded together.
  constexpr int kRows = 8 * kTiles, kPitch = kRows + 1;
  auto* parts = reinterpret_cast<float*>(SharedMemory());  // (kParts, 16, kPitch)
  const int out0 = blockIdx.x * kFewOutputs, row0 = blockIdx.y * kRows;
  const int g = Lane() / 4, t = Lane() % 4;
  // Where there is no such output or row, none of its elements is inside.
  const BFloat16* weights[2];
  const BFloat16* xs[kTiles];
  int weight_size[2], x_size[kTiles];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int out = out0 + g + 8 * h;
    weight_size[h] = out < p.out ? p.in : 0;
    weights[h] = p.weight + static_cast<size_t>(out) * p.in;
  }
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const int row = row0 + g + 8 * i;
    x_size[i] = row < p.rows ? p.in : 0;
    xs[i] = p.x + static_cast<size_t>(row) * p.in;
  }
  float sums[kTiles][4] = {};
  const int end = PartBegin(p, Warp() + 1);
  for (int chunk = PartBegin(p, Warp()); chunk < end; chunk += kUnroll) {
    uint4 w[kUnroll][2][2], x[kUnroll][2][kTiles];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // Beyond the end of the part nothing is read.
        const int k = chunk + u < end ? (chunk + u) * kChunk + half * 32 + t * 8 : p.in;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          w[u][half][h] = LoadEight<kWhole>(weights[h], k, weight_size[h]);
        }
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          x[u][half][i] = LoadEight<kWhole>(xs[i], k, x_size[i]);
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (chunk + u >= end) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          MultiplyEight(w[u][half][0], w[u][half][1], x[u][half][i], sums[i]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int out = g + j / 2 * 8, row = i * 8 + 2 * t + j % 2;
      parts[(Warp() * kFewOutputs + out) * kPitch + row] = sums[i][j];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kFewOutputs * kRows; i += kThreads) {
    const int out = i % kFewOutputs, row = i / kFewOutputs;
    if (out0 + out >= p.out || row0 + row >= p.rows) continue;
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      sum += parts[(part * kFewOutputs + out) * kPitch + row];
    }
    Finish(p, row0 + row, out0 + out, sum);
  }
}

template <int kTiles, bool kWhole>
absl::Status LaunchFewRows(const Product& p, CudaStream stream) {
  constexpr int kRows = 8 * kTiles;
  const dim3 grid((p.out + kFewOutputs - 1) / kFewOutputs, (p.rows + kRows - 1) / kRows);
  return Launch("MatMul (bfloat16, few rows)", FewRowsBf16Kernel<kTiles, kWhole>, grid, kThreads,
                kParts * kFewOutputs * (kRows + 1) * sizeof(float), stream, p);
}

// --- Many rows: a block for a tile of (128 outputs, 64 rows), a warp for (32, 32) of it; chunks
// come to shared memory kStages ahead. ---

constexpr int kTileOutputs = 128, kTileRows = 64, kStages = 4;
constexpr int kLines = kTileOutputs + kTileRows;  // Of a stage: outputs first, then rows.
constexpr int kPieces = kChunk / 8;               // Of 16 bytes in a line.
constexpr int kStageBytes = kLines * kChunk * 2;
constexpr int kOutputPitch = kTileOutputs + 4;  // Of the finished tile in shared memory.
static_assert(kTileRows * kOutputPitch * 4 <= kStages * kStageBytes);

// Odd lines change their halves, so that the eight lanes which read a half of two neighbouring
// lines meet all banks.
__device__ __forceinline__ std::byte* Piece(std::byte* stage, int line, int piece) {
  return stage + line * kChunk * 2 + (piece ^ (line & 1) * (kPieces / 2)) * 16;
}

// Starts the copy of a chunk of `count` lines, from index `first` of a matrix of `size` on.
template <int kLineCount, bool kWhole>
__device__ __forceinline__ void LoadLines(const BFloat16* matrix, int first, int size, int in,
                                          int chunk, std::byte* stage, int first_line) {
  constexpr int kStep = kThreads / kPieces;  // Lines that all threads move together.
  const int piece = threadIdx.x % kPieces, line0 = threadIdx.x / kPieces;
  const int k = chunk * kChunk + piece * 8;
  const BFloat16* from = matrix + static_cast<size_t>(first + line0) * in;
  std::byte* to = Piece(stage, first_line + line0, piece);  // kStep is even: as in all lines.
#pragma unroll
  for (int line = 0; line < kLineCount; line += kStep) {
    const bool inside = first + line0 + line < size && k < in;
    if (kWhole && inside) {
      CopyAsync16(to, from + k);
    } else {
      *reinterpret_cast<uint4*>(to) =
          inside ? LoadEight<kWhole>(from, k, in) : make_uint4(0, 0, 0, 0);
    }
    from += static_cast<size_t>(kStep) * in;
    to += kStep * kChunk * 2;
  }
}
template <bool kWhole>
__device__ __forceinline__ void LoadStage(const Product& p, int out0, int row0, int chunk,
                                          std::byte* stage) {
  LoadLines<kTileOutputs, kWhole>(p.weight, out0, p.out, p.in, chunk, stage, 0);
  LoadLines<kTileRows, kWhole>(p.x, row0, p.rows, p.in, chunk, stage, kTileOutputs);
}

// sums (2 x 16 outputs, 4 x 8 rows) += over one chunk, of lines from out_line and row_line on.
__device__ __forceinline__ void MultiplyChunk(std::byte* stage, int out_line, int row_line,
                                              float (&sums)[2][4][4]) {
  const int g = Lane() / 4, t = Lane() % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint4 w[2][2], x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w[i / 2][i % 2] =
          *reinterpret_cast<const uint4*>(Piece(stage, out_line + i * 8 + g, half * 4 + t));
      x[i] = *reinterpret_cast<const uint4*>(Piece(stage, row_line + i * 8 + g, half * 4 + t));
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) MultiplyEight(w[i][0], w[i][1], x[j], sums[i][j]);
    }
  }
}

// totals += sums; sums = 0.
__device__ __forceinline__ void EndPart(float (&sums)[2][4][4], float (&totals)[2][4][4]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    totals[i / 16][i / 4 % 4][i % 4] += sums[i / 16][i / 4 % 4][i % 4];
    sums[i / 16][i / 4 % 4][i % 4] = 0.0f;
  }
}

template <bool kWhole>
__global__ void __launch_bounds__(kThreads, 2) ManyRowsBf16Kernel(Product p) {
  std::byte* shared = SharedMemory();
  const int out0 = blockIdx.x * kTileOutputs, row0 = blockIdx.y * kTileRows;
  const int out_line = Warp() % 4 * 32, row_line = Warp() / 4 * 32;
  float sums[2][4][4] = {}, totals[2][4][4] = {};
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < p.chunks) LoadStage<kWhole>(p, out0, row0, s, shared + s * kStageBytes);
    CopyAsyncCommit();
  }
  int part = 0, part_end = PartBegin(p, 1);
  for (int chunk = 0; chunk < p.chunks; ++chunk) {
    CopyAsyncWait<kStages - 2>();
    __syncthreads();  // Also: nobody reads any more what comes next.
    const int next = chunk + kStages - 1;
    if (next < p.chunks)
      LoadStage<kWhole>(p, out0, row0, next, shared + next % kStages * kStageBytes);
    CopyAsyncCommit();
    while (chunk == part_end) {  // A part may be empty.
      EndPart(sums, totals);
      part_end = PartBegin(p, ++part + 1);
    }
    MultiplyChunk(shared + chunk % kStages * kStageBytes, out_line, kTileOutputs + row_line, sums);
  }
  EndPart(sums, totals);
  __syncthreads();
  // Through shared memory, so that neighbouring threads write neighbouring outputs.
  auto* tile = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int out = out_line + i / 16 * 16 + i / 2 % 2 * 8 + Lane() / 4;
    const int row = row_line + i / 4 % 4 * 8 + Lane() % 4 * 2 + i % 2;
    tile[row * kOutputPitch + out] = totals[i / 16][i / 4 % 4][i % 4];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTileRows * kTileOutputs; i += kThreads) {
    const int row = i / kTileOutputs, out = i % kTileOutputs;
    if (out0 + out >= p.out || row0 + row >= p.rows) continue;
    Finish(p, row0 + row, out0 + out, tile[row * kOutputPitch + out]);
  }
}

template <bool kWhole>
absl::Status LaunchManyRows(const Product& p, CudaStream stream) {
  const dim3 grid((p.out + kTileOutputs - 1) / kTileOutputs, (p.rows + kTileRows - 1) / kTileRows);
  return Launch("MatMul (bfloat16)", ManyRowsBf16Kernel<kWhole>, grid, kThreads,
                kStages * kStageBytes, stream, p);
}

}  // namespace

absl::Status MultiplyBf16(const MatMulArguments& arguments, CudaStream stream) {
  const Product p = ToProduct(arguments);
  if (!Whole(arguments)) {
    return p.rows <= 32 ? LaunchFewRows<1, false>(p, stream) : LaunchManyRows<false>(p, stream);
  }
  if (p.rows <= 8) return LaunchFewRows<1, true>(p, stream);
  if (p.rows <= 16) return LaunchFewRows<2, true>(p, stream);
  // The kernel for few rows reads x again for each 16 outputs; that for many leaves most
  // multiprocessors idle where its tiles are few.
  const int64_t tiles =
      int64_t{(p.out + kTileOutputs - 1) / kTileOutputs} * ((p.rows + kTileRows - 1) / kTileRows);
  if (p.rows <= 32 || (p.rows <= 128 && tiles < 32)) return LaunchFewRows<4, true>(p, stream);
  return LaunchManyRows<true>(p, stream);
}

}  // namespace packrat::gpu
