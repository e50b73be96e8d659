// What the products of kernels/matmul_bf16.cu multiply by: weights in bfloat16, or quantised. Both
// come 16 outputs and a chunk of 64 inputs at a time, of which a lane holds its shares of the
// tensor cores' operands.
#ifndef PACKRAT_KERNELS_MATMUL_BF16_CUH_
#define PACKRAT_KERNELS_MATMUL_BF16_CUH_

#include "kernels/device.cuh"
#include "kernels/quant_tiles.cuh"

namespace packrat::gpu {

// A product as the kernels see it.
struct Bf16Product {
  const void* weight;
  const BFloat16* x;
  void* y;
  const float* bias;
  int rows, out, in, chunks;
  bool y_is_float, accumulate;
  float scale;
};

constexpr int kChunk = 64;
static_assert(kChunk == kQuantTileInputs);

// Runs of the inner dimension, each of which is summed by itself.
constexpr int kParts = 8;
// The first chunk of a part; that of part kParts is the number of chunks.
__device__ __forceinline__ int PartBegin(const Bf16Product& p, int part) {
  return static_cast<int>(static_cast<int64_t>(part) * p.chunks / kParts);
}

// What is made of an output's sum, but for what y was before.
__device__ __forceinline__ float Scaled(const Bf16Product& p, int out, float sum) {
  if (p.bias != nullptr) sum += p.bias[out];
  return sum * p.scale;
}

__device__ __forceinline__ void Finish(const Bf16Product& p, int row, int out, float sum) {
  const size_t at = static_cast<size_t>(row) * p.out + out;
  sum = Scaled(p, out, sum);
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

// --- A block's operands in shared memory, by stages of one chunk: `lines` of 64 elements. ---

constexpr int kBlockThreads = 256;
constexpr int kPieces = kChunk / 8;  // Of 16 bytes in a line.
constexpr int kLineBytes = kChunk * 2;

// Odd lines change their halves, so that the eight lanes which read a half of two neighbouring
// lines meet all banks.
__device__ __forceinline__ std::byte* Piece(std::byte* lines, int line, int piece) {
  return lines + line * kLineBytes + (piece ^ (line & 1) * (kPieces / 2)) * 16;
}

// Starts the copy of a chunk of `kLines` lines, from index `first` of a matrix of `size` on.
template <int kLines, bool kWhole>
__device__ __forceinline__ void LoadLines(const BFloat16* matrix, int first, int size, int in,
                                          int chunk, std::byte* lines) {
  constexpr int kStep = kBlockThreads / kPieces;  // Lines that all threads move together.
  const int piece = threadIdx.x % kPieces, line0 = threadIdx.x / kPieces;
  const int k = chunk * kChunk + piece * 8;
  std::byte* to = Piece(lines, line0, piece);  // kStep is even: as in all lines.
#pragma unroll
  for (int line = 0; line < kLines; line += kStep) {
    const bool inside = first + line0 + line < size && k < in;
    const BFloat16* from = matrix + static_cast<size_t>(first + line0 + line) * in;
    if (kWhole && inside) {
      CopyAsync16(to, from + k);
    } else {
      *reinterpret_cast<uint4*>(to) =
          inside ? LoadEight<kWhole>(from, k, in) : make_uint4(0, 0, 0, 0);
    }
    to += kStep * kLineBytes;
  }
}

// --- Weights in bfloat16: rows. kWholeRows: eight elements can be moved at a time. ---

template <bool kWholeRows>
struct Bf16Weights {
  static constexpr bool kWhole = kWholeRows, kHasMinimum = false;
  static constexpr bool kTotalsInRegisters = true;

  // A half of a chunk of 16 outputs.
  struct Part {
    uint4 low, high;
    // sums (16 outputs, 8 rows) += over its 32 k. x_sums: of a weight with minima.
    __device__ __forceinline__ void Multiply(const uint4& x, const float (&)[2],
                                             float (&sums)[4] PACKRAT_CALLER) const {
      MultiplyEight(low, high, x, sums);
    }
  };
  struct Chunk {
    Part parts[2];
    __device__ __forceinline__ Part part(int half) const { return parts[half]; }
  };

  // 16 outputs from out0 on, in device memory; or twice eight, each as far as there are any before
  // their end.
  class Outputs {
   public:
    __device__ __forceinline__ Outputs(const Bf16Product& p, int out0)
        : Outputs(p, {out0, out0 + 8}, {p.out, p.out}) {}
    __device__ __forceinline__ Outputs(const Bf16Product& p, const int (&first)[2],
                                       const int (&ends)[2])
        : in_(p.in) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int out = first[h] + Lane() / 4;
        sizes_[h] = out < ends[h] ? p.in : 0;  // Of no such output any element is inside.
        rows_[h] = static_cast<const BFloat16*>(p.weight) + static_cast<size_t>(out) * p.in;
      }
    }
    // Zero, and nothing is read, unless `inside`.
    __device__ __forceinline__ void Load(int chunk, bool inside, Chunk* to) const {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int k = inside ? chunk * kChunk + half * 32 + Lane() % 4 * 8 : in_;
        to->parts[half].low = LoadEight<kWhole>(rows_[0], k, sizes_[0]);
        to->parts[half].high = LoadEight<kWhole>(rows_[1], k, sizes_[1]);
      }
    }
    // Starts to bring the four chunks from `chunk` on, before `end`, into the second cache: their
    // rows are lines there, where rows are whole chunks.
    __device__ __forceinline__ void Prefetch(int chunk, int end) const {
      chunk += Lane() % 4;
      if (chunk >= end) return;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (chunk * kChunk < sizes_[h]) PrefetchL2(rows_[h] + chunk * kChunk);
      }
    }

   private:
    const BFloat16* rows_[2];
    int sizes_[2], in_;
  };

  // A chunk of kOutputs outputs in shared memory.
  template <int kOutputs>
  static constexpr int StageBytes() {
    return kOutputs * kLineBytes;
  }
  template <int kOutputs>
  static __device__ __forceinline__ void LoadStage(const Bf16Product& p, int out0, int chunk,
                                                   std::byte* stage) {
    LoadLines<kOutputs, kWhole>(static_cast<const BFloat16*>(p.weight), out0, p.out, p.in, chunk,
                                stage);
  }
  // Of the 16 outputs from `output` on.
  static __device__ __forceinline__ Part FromStage(std::byte* stage, int output, int half) {
    const int line = output + Lane() / 4, piece = half * 4 + Lane() % 4;
    return {*reinterpret_cast<const uint4*>(Piece(stage, line, piece)),
            *reinterpret_cast<const uint4*>(Piece(stage, line + 8, piece))};
  }
};

// --- Quantised weights: tiles. A group's q are multiplied on the tensor cores, exactly but for the
// order of additions, and its scale is applied to the sum. ---

template <DType kFormat>
struct QuantWeights {
  static constexpr bool kWhole = true, kHasMinimum = QuantTile<kFormat>::kHasMinimum;
  // Widening takes registers, and tiles leave room in shared memory.
  static constexpr bool kTotalsInRegisters = false;
  static constexpr int kTileBytes = static_cast<int>(QuantTileBytes(kFormat));

  struct Part : QuantPart {
    Part() = default;
    __device__ __forceinline__ Part(const QuantPart& part) : QuantPart(part) {}
    __device__ __forceinline__ void Multiply(const uint4& x, const float (&x_sums)[2],
                                             float (&sums)[4] PACKRAT_CALLER) const {
      float group[4] = {};
      MultiplyEight(low, high, x, group);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[i] = fmaf(scale[i / 2], group[i], sums[i]);
        if constexpr (kHasMinimum) sums[i] = fmaf(minimum[i / 2], x_sums[i % 2], sums[i]);
      }
    }
  };
  struct Chunk {
    QuantTile<kFormat> tile;
    __device__ __forceinline__ Part part(int half) const { return tile.part(half); }
  };

  static __device__ __forceinline__ const std::byte* Strip(const Bf16Product& p, int out0) {
    return static_cast<const std::byte*>(p.weight) +
           static_cast<size_t>(out0 / kQuantTileOutputs) * p.chunks * kTileBytes;
  }

  class Outputs {
   public:
    __device__ __forceinline__ Outputs(const Bf16Product& p, int out0) : strip_(Strip(p, out0)) {}
    __device__ __forceinline__ void Load(int chunk, bool inside, Chunk* to) const {
      to->tile.Read(strip_ + static_cast<size_t>(chunk) * kTileBytes, LoadIf{inside});
    }

   private:
    const std::byte* strip_;
  };

  template <int kOutputs>
  static constexpr int StageBytes() {
    return kOutputs / kQuantTileOutputs * kTileBytes;
  }
  template <int kOutputs>
  static __device__ __forceinline__ void LoadStage(const Bf16Product& p, int out0, int chunk,
                                                   std::byte* stage) {
    constexpr int kTilePieces = kTileBytes / 16;
    constexpr int kAll = kOutputs / kQuantTileOutputs * kTilePieces;
    const int last = (p.out - 1 - out0) / kQuantTileOutputs;
    const std::byte* tiles = Strip(p, out0) + static_cast<size_t>(chunk) * kTileBytes;
#pragma unroll
    for (int i = 0; i < kAll; i += kBlockThreads) {
      const int piece = i + static_cast<int>(threadIdx.x);
      if (i + kBlockThreads > kAll && piece >= kAll) break;
      // Beyond the last output, it is computed once more.
      const int tile = min(piece / kTilePieces, last);
      const unsigned at = tile * p.chunks * kTileBytes + piece % kTilePieces * 16;
      CopyAsync16(stage + piece * 16, tiles + at);
    }
  }
  static __device__ __forceinline__ Part FromStage(std::byte* stage, int output, int half) {
    return QuantTile<kFormat>::ReadPart(stage + output / kQuantTileOutputs * kTileBytes, half);
  }
};

// What a weight's minimum is multiplied by: the sums over 32 k of rows 2 t and 2 t + 1 of x, for
// the lane with t = lane % 4.
template <class W>
__device__ __forceinline__ void SumRows(const uint4& x, float (&x_sums)[2] PACKRAT_CALLER) {
  float sums[4] = {};
  if constexpr (W::kHasMinimum) {
    constexpr unsigned kOnes = 0x3f803f80u;
    const uint4 ones = make_uint4(kOnes, kOnes, kOnes, kOnes);
    MultiplyEight(ones, ones, x, sums);
  }
  x_sums[0] = sums[0], x_sums[1] = sums[1];
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MATMUL_BF16_CUH_
