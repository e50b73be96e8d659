// Products in float32 by multiply-adds.
#include "kernels/check.h"
#include "kernels/device.cuh"
#include "kernels/matmul_own.h"
#include "kernels/quant_tiles.cuh"

namespace packrat::gpu {
namespace {

constexpr int kThreads = 256;

// A product as the kernels see it.
struct Product {
  const void* weight;  // Rows of float32; or tiles.
  const float* x;
  float* y;
  const float* bias;
  int rows, out, in;
  bool accumulate;
  float scale;
};

bool Whole(const MatMulArguments& m) {
  return m.weight->in % 4 == 0 && reinterpret_cast<uintptr_t>(m.weight->data) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(m.x) % 16 == 0;
}

Product ToProduct(const MatMulArguments& m) {
  return {m.weight->data,
          static_cast<const float*>(m.x),
          static_cast<float*>(m.y),
          m.bias,
          m.rows,
          m.weight->out,
          m.weight->in,
          m.accumulate,
          m.scale};
}

__device__ __forceinline__ void Finish(const Product& p, int row, int out, float sum) {
  float& y = p.y[static_cast<size_t>(row) * p.out + out];
  if (p.bias != nullptr) sum += p.bias[out];
  sum *= p.scale;
  y = p.accumulate ? y + sum : sum;
}

// Elements k to k + 3 of a row of n; zero beyond. kWhole: four can be moved at a time.
template <bool kWhole>
__device__ __forceinline__ float4 LoadFour(const float* row, int k, int n) {
  if constexpr (kWhole) {
    const uint4 v = LoadIf16(row + k, k < n);
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                       __uint_as_float(v.w));
  } else {
    const auto at = [&](int i) { return k + i < n ? row[k + i] : 0.0f; };
    return make_float4(at(0), at(1), at(2), at(3));
  }
}
__device__ __forceinline__ float AddFour(const float4& a, const float4& b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

// Few rows: a warp for each kOutputs outputs, so that a load of x serves more than one. Lane l sums
// over k = 4 l + 128 j + 0, 1, 2, 3 for j = 0, 1, ...; kUnroll such steps are loaded together.
constexpr int kOutputs = 2, kStep = 4 * kWarp;

template <int kRows, bool kWhole>
__global__ void __launch_bounds__(kThreads) FewRowsF32Kernel(Product p) {
  AwaitPrevious();
  constexpr int kUnroll = kRows <= 2 ? 4 : 2;
  const int first = (static_cast<int>(blockIdx.x) * (kThreads / kWarp) + Warp()) * kOutputs;
  if (first >= p.out) return;
  const float* weights[kOutputs];
  const float* xs[kRows];
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {  // Beyond the last output, it is computed once more.
    weights[o] =
        static_cast<const float*>(p.weight) + static_cast<size_t>(min(first + o, p.out - 1)) * p.in;
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) xs[r] = p.x + static_cast<size_t>(min(r, p.rows - 1)) * p.in;
  float sums[kRows][kOutputs] = {};
  for (int k0 = 0; k0 < p.in; k0 += kUnroll * kStep) {
    float4 w[kUnroll][kOutputs];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        w[u][o] = LoadFour<kWhole>(weights[o], k0 + u * kStep + 4 * Lane(), p.in);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float4 x = LoadFour<kWhole>(xs[r], k0 + u * kStep + 4 * Lane(), p.in);
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) sums[r][o] = AddFour(w[u][o], x, sums[r][o]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      const float sum = WarpSum(sums[r][o]);
      if (Lane() == 0 && r < p.rows && first + o < p.out) Finish(p, r, first + o, sum);
    }
  }
}

// Few rows by a quantised weight: a block for a strip of 16 outputs, whose tiles its warps take in
// turn. A lane has 8 inputs of each group of two outputs (QuantPart), of which it makes
//   sum = fma(scale, q x', sum), int4: then fma(minimum, 1 x', sum)
// where q x' and 1 x' are chains over these inputs. The four lanes of an output are added, then the
// warps in order.
__device__ __forceinline__ void WidenPairs(const uint4& pairs, float (&out)[8]) {
  const unsigned words[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = __uint_as_float(words[i] << 16);
    out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

template <int kRows, DType kFormat>
__global__ void __launch_bounds__(kThreads) FewRowsQuantizedF32Kernel(Product p) {
  AwaitPrevious();
  constexpr int kWarps = kThreads / kWarp;
  constexpr int kUnroll = kFormat == DType::kInt4 && kRows > 2 ? 4 : 2;
  constexpr size_t kTileBytes = QuantTileBytes(kFormat);
  auto* parts = reinterpret_cast<float*>(SharedMemory());  // (kWarps, kRows, 16)
  const int tiles = QuantTilesOf(p.in), g = Lane() / 4, t = Lane() % 4;
  const std::byte* strip = static_cast<const std::byte*>(p.weight) +
                           static_cast<size_t>(blockIdx.x) * tiles * kTileBytes;
  const float* xs[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) xs[r] = p.x + static_cast<size_t>(min(r, p.rows - 1)) * p.in;
  float sums[kRows][2] = {};  // Of outputs g and g + 8.
  for (int first = Warp(); first < tiles; first += kUnroll * kWarps) {
    QuantTile<kFormat> loaded[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int tile = first + u * kWarps;
      loaded[u].Read(strip + tile * kTileBytes, LoadIf{tile < tiles});
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // Beyond the last tile all of it is zero.
        const QuantPart part = loaded[u].part(half);
        const int k = (first + u * kWarps) * kQuantTileInputs + half * kQuantGroup + 8 * t;
        float q[2][8];
        WidenPairs(part.low, q[0]);
        WidenPairs(part.high, q[1]);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float4 low = LoadFour<true>(xs[r], k, p.in);
          const float4 high = LoadFour<true>(xs[r], k + 4, p.in);
          const float x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
          float products[2] = {}, x_sum = 0.0f;
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            products[0] = fmaf(q[0][i], x[i], products[0]);
            products[1] = fmaf(q[1][i], x[i], products[1]);
            if constexpr (QuantTile<kFormat>::kHasMinimum) x_sum += x[i];
          }
#pragma unroll
          for (int o = 0; o < 2; ++o) {
            sums[r][o] = fmaf(part.scale[o], products[o], sums[r][o]);
            if constexpr (QuantTile<kFormat>::kHasMinimum) {
              sums[r][o] = fmaf(part.minimum[o], x_sum, sums[r][o]);
            }
          }
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      float sum = sums[r][o];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      if (t == 0) parts[(Warp() * kRows + r) * kQuantTileOutputs + g + 8 * o] = sum;
    }
  }
  __syncthreads();
  const int out = static_cast<int>(threadIdx.x) % kQuantTileOutputs;
  const int row = static_cast<int>(threadIdx.x) / kQuantTileOutputs;
  const int output = static_cast<int>(blockIdx.x) * kQuantTileOutputs + out;
  if (row >= min(kRows, p.rows) || output >= p.out) return;
  float sum = 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += parts[(w * kRows + row) * kQuantTileOutputs + out];
  Finish(p, row, output, sum);
}

template <int kRows, DType kFormat>
absl::Status LaunchFewQuantized(const Product& p, CudaStream stream) {
  static_assert(kRows * kQuantTileOutputs <= kThreads);
  return Launch("MatMul (float32, few rows, quantised)", FewRowsQuantizedF32Kernel<kRows, kFormat>,
                dim3((p.out + kQuantTileOutputs - 1) / kQuantTileOutputs), kThreads,
                kThreads / kWarp * kRows * kQuantTileOutputs * sizeof(float), stream, p);
}

template <DType kFormat>
absl::Status MultiplyFewQuantized(const Product& p, CudaStream stream) {
  return p.rows == 1   ? LaunchFewQuantized<1, kFormat>(p, stream)
         : p.rows == 2 ? LaunchFewQuantized<2, kFormat>(p, stream)
                       : LaunchFewQuantized<8, kFormat>(p, stream);
}

// Any rows: tiles of (16 kPer outputs, 16 kPer rows), a thread for kPer outputs and kPer rows of
// them, 16 apart; kDepth elements of all rows at a time come to shared memory, kStages ahead.
constexpr int kSide = 16, kDepth = 32, kStages = 3;
constexpr int kPitch = kDepth + 4;  // Floats; so neighbouring rows lie in other banks.

template <int kPer>
struct Tile {
  static constexpr int kLines = kSide * kPer;  // Of each operand.
  static constexpr int kStageFloats = 2 * kLines * kPitch;
  static constexpr size_t kBytes = kStages * kStageFloats * sizeof(float);
};

// Starts the copy of one step's part of both operands; zero beyond their ends. kFormat: of the
// weight; it is float32, or becomes that on its way.
template <int kPer, DType kFormat, bool kWhole>
__device__ __forceinline__ void LoadStage(const Product& p, int out0, int row0, int k0,
                                          float* stage) {
  constexpr int kLines = Tile<kPer>::kLines, kPieces = kDepth / 4;
  for (int i = threadIdx.x; i < 2 * kLines * kPieces; i += kThreads) {
    const int line = i / kPieces, k = k0 + i % kPieces * 4;
    const bool is_x = line >= kLines;
    const int index = is_x ? row0 + line - kLines : out0 + line;
    float* to = stage + line * kPitch + i % kPieces * 4;
    const bool inside = index < (is_x ? p.rows : p.out) && k < p.in;
    if constexpr (IsQuantized(kFormat)) {
      if (!is_x) {
        *reinterpret_cast<float4*>(to) =
            inside ? WidenFour<kFormat>(static_cast<const std::byte*>(p.weight), p.in, index, k)
                   : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        continue;
      }
    }
    const float* from =
        (is_x ? p.x : static_cast<const float*>(p.weight)) + static_cast<size_t>(index) * p.in;
    if (kWhole && inside) {
      CopyAsync16(to, from + k);
    } else {
      *reinterpret_cast<float4*>(to) =
          inside ? LoadFour<kWhole>(from, k, p.in) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
  }
}

template <int kPer, DType kFormat, bool kWhole>
__global__ void __launch_bounds__(kThreads) TileF32Kernel(Product p) {
  AwaitPrevious();
  constexpr int kLines = Tile<kPer>::kLines;
  auto* stages = reinterpret_cast<float*>(SharedMemory());
  const int out0 = blockIdx.x * kLines, row0 = blockIdx.y * kLines;
  const int o0 = threadIdx.x % kSide, r0 = threadIdx.x / kSide;
  float sums[kPer][kPer] = {};  // Of output o0 + 16 i and row r0 + 16 j.
  const int steps = (p.in + kDepth - 1) / kDepth;
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) {
      LoadStage<kPer, kFormat, kWhole>(p, out0, row0, s * kDepth,
                                       stages + s * Tile<kPer>::kStageFloats);
    }
    CopyAsyncCommit();
  }
  for (int step = 0; step < steps; ++step) {
    CopyAsyncWait<kStages - 2>();
    __syncthreads();  // Also: nobody reads any more what comes next.
    const int next = step + kStages - 1;
    if (next < steps) {
      LoadStage<kPer, kFormat, kWhole>(p, out0, row0, next * kDepth,
                                       stages + next % kStages * Tile<kPer>::kStageFloats);
    }
    CopyAsyncCommit();
    const float* weight = stages + step % kStages * Tile<kPer>::kStageFloats;
    const float* x = weight + kLines * kPitch;
#pragma unroll 2
    for (int k = 0; k < kDepth; k += 4) {
      float4 w[kPer];
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        w[i] = *reinterpret_cast<const float4*>(weight + (o0 + kSide * i) * kPitch + k);
      }
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        const auto v = *reinterpret_cast<const float4*>(x + (r0 + kSide * j) * kPitch + k);
#pragma unroll
        for (int i = 0; i < kPer; ++i) sums[i][j] = AddFour(w[i], v, sums[i][j]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kPer; ++j) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const int out = out0 + o0 + kSide * i, row = row0 + r0 + kSide * j;
      if (out < p.out && row < p.rows) Finish(p, row, out, sums[i][j]);
    }
  }
}

template <int kPer, DType kFormat, bool kWhole>
absl::Status LaunchTiles(const Product& p, CudaStream stream) {
  constexpr int kLines = Tile<kPer>::kLines;
  const dim3 grid((p.out + kLines - 1) / kLines, (p.rows + kLines - 1) / kLines);
  return Launch("MatMul (float32)", TileF32Kernel<kPer, kFormat, kWhole>, grid, kThreads,
                Tile<kPer>::kBytes, stream, p);
}

template <DType kFormat, bool kWhole>
absl::Status LaunchAnyRows(const Product& p, CudaStream stream) {
  return p.rows <= 32 ? LaunchTiles<1, kFormat, kWhole>(p, stream)
                      : LaunchTiles<4, kFormat, kWhole>(p, stream);
}

}  // namespace

absl::Status MultiplyF32(const MatMulArguments& arguments, CudaStream stream) {
  const Product p = ToProduct(arguments);
  const DType type = arguments.weight->type;
  if (IsQuantized(type)) {
    PACKRAT_CHECK(Whole(arguments) && p.in % kQuantGroup == 0);
    return type == DType::kInt8 ? LaunchAnyRows<DType::kInt8, true>(p, stream)
                                : LaunchAnyRows<DType::kInt4, true>(p, stream);
  }
  return Whole(arguments) ? LaunchAnyRows<DType::kF32, true>(p, stream)
                          : LaunchAnyRows<DType::kF32, false>(p, stream);
}

absl::Status MultiplyFewRowsF32(const MatMulArguments& arguments, CudaStream stream) {
  const Product p = ToProduct(arguments);
  const DType type = arguments.weight->type;
  if (IsQuantized(type)) {
    PACKRAT_CHECK(Whole(arguments) && p.in % kQuantGroup == 0);
    return type == DType::kInt8 ? MultiplyFewQuantized<DType::kInt8>(p, stream)
                                : MultiplyFewQuantized<DType::kInt4>(p, stream);
  }
  constexpr int kOutputsPerBlock = kThreads / kWarp * kOutputs;
  const auto kernel = !Whole(arguments) ? FewRowsF32Kernel<8, false>
                      : p.rows == 1     ? FewRowsF32Kernel<1, true>
                      : p.rows == 2     ? FewRowsF32Kernel<2, true>
                      : p.rows <= 4     ? FewRowsF32Kernel<4, true>
                                        : FewRowsF32Kernel<8, true>;
  return Launch("MatMul (float32, few rows)", kernel,
                dim3((p.out + kOutputsPerBlock - 1) / kOutputsPerBlock), kThreads, 0, stream, p);
}

}  // namespace packrat::gpu
