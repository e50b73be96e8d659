// Tiles of integer products, over the vectors of one instruction set. The includer defines, in the
// namespace of its target and within HWY_PUSH_ATTRIBUTES:
//   Vec, kOutputs   float32 vectors and their lanes
//   Int             a vector of 4 * kOutputs bytes
//   LoadInt, BroadcastInt, LowHalves, HighHalves (of each byte, unsigned)
//   LoadHalves      kOutputs float16 to float32
//   Broadcast, Zero, Mul, Add, StoreVec
//   Int8Dot, Int4Dot  with Weights, Prepare(), Start(), Add(), Total(): the exact sum of
//                     w * x over a group, kOutputs outputs at once
// and kMaxRows and Columns(rows): the rows of a tile and its vectors of outputs, so that its sums
// stay in registers.

constexpr ptrdiff_t kSoon = 4096;  // How far ahead weights are asked for, in bytes.

template <DType kFormat>
struct Block;

template <>
struct Block<DType::kInt8> {
  using Dot = Int8Dot;
  static constexpr int kScales = kInt8Scales;
  HWY_INLINE static Int Quad(const std::byte* block, int quad, int output) {
    return LoadInt(block + quad * 128 + output * 4);
  }
};

template <>
struct Block<DType::kInt4> {
  using Dot = Int4Dot;
  static constexpr int kScales = kInt4Scales;
  HWY_INLINE static Int Quad(const std::byte* block, int quad, int output) {
    const Int pair = LoadInt(block + quad / 2 * 128 + output * 4);
    return quad % 2 == 0 ? LowHalves(pair) : HighHalves(pair);
  }
};

// kRows rows times kColumns vectors of outputs, from output `first` of the panel on.
template <DType kFormat, int kRows, int kColumns>
HWY_INLINE void Tile(const int32_t* HWY_RESTRICT rows, const std::byte* HWY_RESTRICT block,
                     int groups, int first, float* HWY_RESTRICT out) {
  using Format = Block<kFormat>;
  using Dot = typename Format::Dot;
  Vec acc[kRows][kColumns];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) acc[r][c] = Zero();
  }
  for (int g = 0; g < groups; ++g) {
    // The processor itself does not ask memory for what is beyond the end of a page.
    for (size_t line = 0; line < QuantBlockBytes(kFormat); line += 64) {
      __builtin_prefetch(block + kSoon + line, 0, 2);
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
        weights[c] = Dot::Prepare(Format::Quad(block, quad, first + c * kOutputs));
      }
      for (int r = 0; r < kRows; ++r) {
        const Int x = BroadcastInt(rows[quad * kRows + r]);
        for (int c = 0; c < kColumns; ++c) dots[r][c].Add(weights[c], x);
      }
    }
    for (int c = 0; c < kColumns; ++c) {
      const std::byte* scales = block + Format::kScales + (first + c * kOutputs) * 2;
      const Vec scale = LoadHalves(scales);
      for (int r = 0; r < kRows; ++r) {
        const Vec x_scale = Broadcast(words[8 * kRows + r]);
        acc[r][c] = Add(acc[r][c], Mul(Mul(dots[r][c].Total(), scale), x_scale));
      }
      if constexpr (kFormat == DType::kInt4) {
        const Vec minimum = LoadHalves(scales + 64);
        for (int r = 0; r < kRows; ++r) {
          acc[r][c] = Add(acc[r][c], Mul(minimum, Broadcast(words[10 * kRows + r])));
        }
      }
    }
    rows += kQuantWords * kRows;
    block += QuantBlockBytes(kFormat);
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      StoreVec(acc[r][c], out + r * kQuantPanel + first + c * kOutputs);
    }
  }
}

template <DType kFormat, int kRows>
void RowsTimesPanel(const int32_t* rows, const std::byte* panel, int groups, float* out) {
  constexpr int kColumns = Columns(kRows);
  for (int first = 0; first < kQuantPanel; first += kColumns * kOutputs) {
    Tile<kFormat, kRows, kColumns>(rows, panel, groups, first, out);
  }
}

template <DType kFormat, int kRows = kMaxRows>
void PanelRows(const int32_t* rows, int n, const std::byte* panel, int groups, float* out) {
  if (n == kRows) return RowsTimesPanel<kFormat, kRows>(rows, panel, groups, out);
  if constexpr (kRows > 1) PanelRows<kFormat, kRows - 1>(rows, n, panel, groups, out);
}

inline void Multiply(DType format, const int32_t* rows, int n, const std::byte* panel, int in,
                     float* out) {
  const int groups = in / kQuantGroup;
  if (format == DType::kInt8) {
    PanelRows<DType::kInt8>(rows, n, panel, groups, out);
  } else {
    PanelRows<DType::kInt4>(rows, n, panel, groups, out);
  }
}
