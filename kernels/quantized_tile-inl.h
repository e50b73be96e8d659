// Tiles of integer products, over the vectors of one instruction set. The includer defines, in the
// namespace of its target and within HWY_PUSH_ATTRIBUTES:
//   Vec, kOutputs   float32 vectors and their lanes
//   Int             a vector of 4 * kOutputs bytes
//   LoadInt, StoreInt, BroadcastInt, LowHalves, HighHalves (of each byte, unsigned)
//   LoadHalves      kOutputs float16 to float32
//   Broadcast, Zero, Mul, MulAdd (a * b + c), StoreVec
//   Int8Dot, Int4Dot  with Weights, Prepare(), Start(), Add(): the exact sum of w * x over a group,
//                     kOutputs outputs at once; and Times(), that sum times a scale, rounded
// and kMaxRows and Columns(rows): the rows of a tile and its vectors of outputs, so that its sums
// stay in registers.

// How far ahead weights are asked for, in bytes: the processor itself does not ask memory for what
// is beyond the end of a page.
constexpr ptrdiff_t kSoon = 4096;

struct Int8Block {
  using Dot = Int8Dot;
  static constexpr int kScales = kInt8Scales;
  static constexpr ptrdiff_t kBytes = QuantBlockBytes(DType::kInt8);
  static constexpr bool kHasMinima = false;
  HWY_INLINE static Int Quad(const std::byte* block, int quad, int output) {
    return LoadInt(block + quad * 128 + output * 4);
  }
};

struct SpreadInt4Block : Int8Block {
  using Dot = Int4Dot;
  static constexpr ptrdiff_t kBytes = kSpreadBlockBytes;
  static constexpr bool kHasMinima = true;
};

struct Int4Block {
  using Dot = Int4Dot;
  static constexpr int kScales = kInt4Scales;
  static constexpr ptrdiff_t kBytes = QuantBlockBytes(DType::kInt4);
  static constexpr bool kHasMinima = true;
  HWY_INLINE static Int Quad(const std::byte* block, int quad, int output) {
    const Int pair = LoadInt(block + quad / 2 * 128 + output * 4);
    return quad % 2 == 0 ? LowHalves(pair) : HighHalves(pair);
  }
};

// kRows rows times kColumns vectors of outputs, from output `first` of the panel on.
template <class Block, int kRows, int kColumns>
HWY_INLINE void Tile(const int32_t* HWY_RESTRICT rows, const std::byte* HWY_RESTRICT block,
                     int groups, int first, bool ask, float* HWY_RESTRICT out) {
  using Dot = typename Block::Dot;
  Vec acc[kRows][kColumns];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) acc[r][c] = Zero();
  }
  for (int g = 0; g < groups; ++g) {
    if (ask) {
      for (ptrdiff_t line = 0; line < Block::kBytes; line += 64) {
        __builtin_prefetch(block + kSoon + line, 0, 2);
      }
    }
    const auto* words = reinterpret_cast<const float*>(rows);
    Dot dots[kRows][kColumns];
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kColumns; ++c) dots[r][c].Start(rows[9 * kRows + r]);
    }
#pragma GCC unroll 8
    for (int quad = 0; quad < 8; ++quad) {
      typename Dot::Weights weights[kColumns];
      for (int c = 0; c < kColumns; ++c) {
        weights[c] = Dot::Prepare(Block::Quad(block, quad, first + c * kOutputs));
      }
      for (int r = 0; r < kRows; ++r) {
        const Int x = BroadcastInt(rows[quad * kRows + r]);
        for (int c = 0; c < kColumns; ++c) dots[r][c].Add(weights[c], x);
      }
    }
    for (int c = 0; c < kColumns; ++c) {
      const std::byte* scales = block + Block::kScales + (first + c * kOutputs) * 2;
      const Vec scale = LoadHalves(scales);
      for (int r = 0; r < kRows; ++r) {
        const Vec x_scale = Broadcast(words[8 * kRows + r]);
        acc[r][c] = MulAdd(dots[r][c].Times(scale), x_scale, acc[r][c]);
      }
      if constexpr (Block::kHasMinima) {
        const Vec minimum = LoadHalves(scales + 64);
        for (int r = 0; r < kRows; ++r) {
          acc[r][c] = MulAdd(minimum, Broadcast(words[10 * kRows + r]), acc[r][c]);
        }
      }
    }
    rows += kQuantWords * kRows;
    block += Block::kBytes;
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      StoreVec(acc[r][c], out + r * kQuantPanel + first + c * kOutputs);
    }
  }
}

template <class Block, int kRows>
void RowsTimesPanel(const int32_t* rows, const std::byte* panel, int groups, bool ask, float* out) {
  constexpr int kColumns = Columns(kRows);
  for (int first = 0; first < kQuantPanel; first += kColumns * kOutputs) {
    Tile<Block, kRows, kColumns>(rows, panel, groups, first, ask, out);
  }
}

template <class Block, int kRows = kMaxRows>
void PanelRows(const int32_t* rows, int n, const std::byte* panel, int groups, bool ask,
               float* out) {
  if (n == kRows) return RowsTimesPanel<Block, kRows>(rows, panel, groups, ask, out);
  if constexpr (kRows > 1) PanelRows<Block, kRows - 1>(rows, n, panel, groups, ask, out);
}

inline void Multiply(DType format, const int32_t* rows, int n, const std::byte* panel, int in,
                     bool ask, float* out) {
  const int groups = in / kQuantGroup;
  if (format == DType::kInt8) {
    PanelRows<Int8Block>(rows, n, panel, groups, ask, out);
  } else {
    PanelRows<Int4Block>(rows, n, panel, groups, ask, out);
  }
}

inline void MultiplySpread(const int32_t* rows, int n, const std::byte* spread, int in,
                           float* out) {
  PanelRows<SpreadInt4Block>(rows, n, spread, in / kQuantGroup, /*ask=*/false, out);
}

inline void Spread(const std::byte* panel, int in, std::byte* to) {
  for (int g = 0; g < in / kQuantGroup; ++g) {
    for (int quad = 0; quad < 8; ++quad) {
      for (int output = 0; output < kQuantPanel; output += kOutputs) {
        StoreInt(Int4Block::Quad(panel, quad, output), to + quad * 128 + output * 4);
      }
    }
    std::memcpy(to + SpreadInt4Block::kScales, panel + kInt4Scales, 128);
    panel += Int4Block::kBytes;
    to += SpreadInt4Block::kBytes;
  }
}
