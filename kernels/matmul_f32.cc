// Products in float32 multiply-adds, of weights in any format.
#include <algorithm>

#include "kernels/matmul_kernel.h"
#include "kernels/quantized.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul_f32.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/vec16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

constexpr int kPanel = PackedMatrix::kPanel;
constexpr int kLine = 64;  // Bytes that memory gives at once.
// So many blocks of rows have weights widened once for all of them: the weights of a chain, 8 KB,
// and their sums then stay near.
constexpr int kBlocksTogether = 16;
// How many rows are multiplied at once follows from the registers: the rows' accumulators, the
// weights of one k and a broadcast must fit in 32 of them (AVX-512) or 16.
constexpr int kMaxRows = HWY_TARGET == HWY_AVX3 ? 12 : 6;

HWY_INLINE Vec LoadWeights(const float* p) { return hn::LoadU(Lanes(), p); }
HWY_INLINE Vec LoadWeights(const hwy::bfloat16_t* p) {
  const hn::Rebind<hwy::bfloat16_t, Lanes> half;
  return hn::PromoteTo(Lanes(), hn::LoadU(half, p));
}
HWY_INLINE Vec LoadWeights(const hwy::float16_t* p) {
  const hn::Rebind<hwy::float16_t, Lanes> half;
  const Vec v = hn::PromoteTo(Lanes(), hn::LoadU(half, p));
#if HWY_TARGET == HWY_SSE4
  // No instruction for it: Highway's emulation takes infinities and NaNs for numbers from 2^16 on.
  const Vec infinity = hn::BitCast(Lanes(), hn::Set(hn::RebindToUnsigned<Lanes>(), 0x7f800000u));
  return hn::IfThenElse(hn::Ge(hn::Abs(v), hn::Set(Lanes(), 65536.0f)), hn::Or(v, infinity), v);
#else
  return v;
#endif
}

// What a product asks memory for as it takes the weights `w` of input k: those of a chain further
// on, since the processor itself does not ask beyond the end of a page, and a chain of bfloat16 is
// as long as one.
struct AskFurtherOn {
  template <class T>
  HWY_INLINE void operator()(const T* w, int) const {
    for (int at = 0; at < kPanel; at += kLine / static_cast<int>(sizeof(T))) {
      __builtin_prefetch(w + kChainInputs * kPanel + at, 0, 2);
    }
  }
};

// Where these were widened before: the stored ones of the next chain, a part to each input, so that
// they come while it multiplies; and, for the first cache, the rows that come next.
struct AskForStored {
  const std::byte* stored;
  ptrdiff_t step;  // Bytes from one input's part to the next.
  const float* rows;
  ptrdiff_t rows_step;
  template <class T>
  HWY_INLINE void operator()(const T*, int k) const {
    __builtin_prefetch(stored + k * step, 0, 2);
    __builtin_prefetch(rows + k * rows_step, 0, 3);
  }
};

// kRows rows times kCount vectors of outputs of a panel. x: (in, kRows) interleaved. `adds`: to
// what is in `out`.
template <int kRows, int kCount, class T, class Ask>
HWY_INLINE void Tile(const float* HWY_RESTRICT x, const T* HWY_RESTRICT w, int in, bool adds,
                     Ask ask, float* HWY_RESTRICT out) {
  const Lanes d;
  Vec acc[kRows][kCount];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kCount; ++c) {
      acc[r][c] = hn::Zero(d);
    }
  }
  for (int k = 0; k < in; ++k) {
    ask(w + k * kPanel, k);
    Vec weights[kCount];
    for (int c = 0; c < kCount; ++c) weights[c] = LoadWeights(w + k * kPanel + c * kVecLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec value = hn::Set(d, x[k * kRows + r]);
      for (int c = 0; c < kCount; ++c) acc[r][c] = hn::MulAdd(value, weights[c], acc[r][c]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kCount; ++c) {
      float* to = out + r * kPanel + c * kVecLanes;
      hn::StoreU(adds ? hn::Add(hn::LoadU(d, to), acc[r][c]) : acc[r][c], d, to);
    }
  }
}

// out: (kRows, 32), the products of kRows rows with a whole panel. Not inlined: among others of
// them g++ has no registers left for one.
template <int kRows, class T, class Ask>
HWY_NOINLINE void RowsTimesPanel(const float* x, const T* w, int in, bool adds, Ask ask,
                                 float* out) {
  constexpr int kPanelVecs = kPanel / kVecLanes;
  // With few rows the whole panel at once, so that the weights stream; else two vectors.
  constexpr int kCount = kRows * kPanelVecs <= (HWY_TARGET == HWY_AVX3 ? 24 : 8) ? kPanelVecs : 2;
  for (int c = 0; c < kPanelVecs; c += kCount) {
    Tile<kRows, kCount>(x, w + c * kVecLanes, in, adds, ask, out + c * kVecLanes);
  }
}

template <class T, class Ask>
void PanelRows(const float* x, int rows, const T* w, int in, bool adds, Ask ask, float* out) {
  switch (rows) {
    case 1:
      return RowsTimesPanel<1>(x, w, in, adds, ask, out);
    case 2:
      return RowsTimesPanel<2>(x, w, in, adds, ask, out);
    case 3:
      return RowsTimesPanel<3>(x, w, in, adds, ask, out);
    case 4:
      return RowsTimesPanel<4>(x, w, in, adds, ask, out);
    case 5:
      return RowsTimesPanel<5>(x, w, in, adds, ask, out);
    case 6:
      return RowsTimesPanel<6>(x, w, in, adds, ask, out);
#if HWY_TARGET == HWY_AVX3
    case 7:
      return RowsTimesPanel<7>(x, w, in, adds, ask, out);
    case 8:
      return RowsTimesPanel<8>(x, w, in, adds, ask, out);
    case 9:
      return RowsTimesPanel<9>(x, w, in, adds, ask, out);
    case 10:
      return RowsTimesPanel<10>(x, w, in, adds, ask, out);
    case 11:
      return RowsTimesPanel<11>(x, w, in, adds, ask, out);
    case 12:
      return RowsTimesPanel<12>(x, w, in, adds, ask, out);
#endif
  }
}

// The weights of a quantised block, (32 inputs, 32 outputs).
void WidenBlock(const std::byte* block, DType type, float* HWY_RESTRICT wide) {
  const Lanes d;
  const hn::RebindToSigned<Lanes> di;
  const auto* halves = reinterpret_cast<const hwy::float16_t*>(
      block + (type == DType::kInt8 ? kInt8Scales : kInt4Scales));
  for (int c = 0; c < kPanel; c += kVecLanes) {
    const Vec scale = LoadWeights(halves + c);
    if (type == DType::kInt8) {
      for (int quad = 0; quad < 8; ++quad) {
        auto bytes = hn::LoadU(di, reinterpret_cast<const int32_t*>(block + quad * 128 + c * 4));
        for (int k = quad * 4; k < quad * 4 + 4; ++k, bytes = hn::ShiftRight<8>(bytes)) {
          const auto q = hn::Sub(hn::And(bytes, hn::Set(di, 255)), hn::Set(di, 128));
          hn::StoreU(hn::Mul(scale, hn::ConvertTo(d, q)), d, wide + k * kPanel + c);
        }
      }
      continue;
    }
    const Vec minimum = LoadWeights(halves + kPanel + c);
    for (int pair = 0; pair < 4; ++pair) {
      auto bytes = hn::LoadU(di, reinterpret_cast<const int32_t*>(block + pair * 128 + c * 4));
      for (int k = pair * 8; k < pair * 8 + 4; ++k) {
        for (const int at : {k, k + 4}) {  // Low halves, high halves.
          const Vec q = hn::ConvertTo(d, hn::And(bytes, hn::Set(di, 15)));
          hn::StoreU(hn::MulAdd(scale, q, minimum), d, wide + at * kPanel + c);
          bytes = hn::ShiftRight<4>(bytes);
        }
      }
    }
  }
}

// out: as PanelRows(), the sums of each kChainInputs added up.
template <class T>
void AllPanelRows(const float* x, int rows, const T* w, int in, float* out) {
  for (int k = 0; k < in; k += kChainInputs) {
    PanelRows(x + static_cast<ptrdiff_t>(k) * rows, rows, w + static_cast<ptrdiff_t>(k) * kPanel,
              std::min(in - k, kChainInputs), k > 0, AskFurtherOn(), out);
  }
}

// The stored weights of a panel's chain.
ptrdiff_t ChainBytes(DType type) {
  static_assert(kChainInputs % kQuantGroup == 0);
  return IsQuantized(type)
             ? static_cast<ptrdiff_t>(kChainInputs / kQuantGroup * QuantBlockBytes(type))
             : ptrdiff_t{kChainInputs} * kPanel * static_cast<ptrdiff_t>(DTypeBytes(type));
}

// `inputs` weights of each output of a panel, up to a chain, from input k on.
void WidenChain(const PackedMatrix& weight, const std::byte* panel, int k, int inputs,
                float* HWY_RESTRICT wide) {
  const Lanes d;
  const auto widen = [&](const auto* w) {
    w += static_cast<ptrdiff_t>(k) * kPanel;
    for (int i = 0; i < inputs; ++i, w += kPanel) {
      for (int c = 0; c < kPanel; c += kVecLanes) {
        hn::StoreU(LoadWeights(w + c), d, wide + i * kPanel + c);
      }
    }
  };
  switch (weight.type()) {
    case DType::kF32:
      return widen(reinterpret_cast<const float*>(panel));
    case DType::kBF16:
      return widen(reinterpret_cast<const hwy::bfloat16_t*>(panel));
    case DType::kF16:
      return widen(reinterpret_cast<const hwy::float16_t*>(panel));
    case DType::kInt8:
    case DType::kInt4:
      panel += k / kQuantGroup * QuantBlockBytes(weight.type());
      for (int i = 0; i < inputs; i += kQuantGroup, panel += QuantBlockBytes(weight.type())) {
        WidenBlock(panel, weight.type(), wide + i * kPanel);
      }
  }
}

// x (n, in) to (in, n): a tile then reads its rows as one stream. Reading n rows a power of two
// apart would map them all to one set of the first-level cache.
void InterleaveRows(const float* x, ptrdiff_t stride, int n, int in, float* out) {
  for (int k = 0; k < in; ++k) {
    for (int r = 0; r < n; ++r) out[k * n + r] = x[r * stride + k];
  }
}

// The sums of one block of rows to their output. out: (rows, 32).
void Store(const float* out, const MatMulOutput& output, int row, int rows, int panel) {
  const int first = panel * kPanel;
  const int count = std::min(output.weight->out() - first, kPanel);
  for (int r = 0; r < rows; ++r) {
    float* y = output.y + (row + r) * output.y_stride + first;
    for (int c = 0; c < count; c += 16) {
      const int lanes = count - c < 16 ? count - c : 16;
      V16 sum = Load(out + r * kPanel + c);
      if (output.bias != nullptr) sum = Add(sum, LoadFirst(output.bias + first + c, lanes));
      sum = Mul(sum, Set(output.scale));
      if (output.accumulate) sum = Add(sum, LoadFirst(y + c, lanes));
      StoreFirst(sum, lanes, y + c);
    }
  }
}

// The same for `count` blocks of rows, which begin at rows begin[0], begin[1] and so on. Weights
// are widened once for all of them, a chain at a time, so that memory is read as it is stored. out:
// (rows, 32) of all blocks.
void MultiplyBlocks(const float* packed, const int* begin, int count, const PackedMatrix& weight,
                    const std::byte* w, float* out) {
  HWY_ALIGN float wide[kChainInputs * kPanel];
  const int in = weight.in();
  const ptrdiff_t chain_bytes = ChainBytes(weight.type()),
                  step = chain_bytes / kChainInputs / count;
  for (int k = 0; k < in; k += kChainInputs) {
    const int inputs = std::min(in - k, kChainInputs);
    WidenChain(weight, w, k, inputs, wide);
    const std::byte* next = w + (k / kChainInputs + 1) * chain_bytes;
    for (int b = 0; b < count; ++b) {
      const int n = begin[b + 1] - begin[b];
      const float* x =
          packed + static_cast<ptrdiff_t>(begin[b]) * in + static_cast<ptrdiff_t>(k) * n;
      // The next block's inputs of this chain, or the first one's of the next chain: of the first
      // after the last, for the next panel.
      const int after = b + 1 < count ? b + 1 : 0;
      const ptrdiff_t m = begin[after + 1] - begin[after];
      const float* rows = packed + static_cast<ptrdiff_t>(begin[after]) * in +
                          static_cast<ptrdiff_t>(after > 0         ? k
                                                 : k + inputs < in ? k + inputs
                                                                   : 0) *
                              m;
      const AskForStored ask = {next + b * kChainInputs * step, step, rows, m};
      PanelRows(x, n, wide, inputs, k > 0, ask, out + (begin[b] - begin[0]) * kPanel);
    }
  }
}

// One panel of one output for all rows.
void MultiplyPanel(const float* packed, int rows, const MatMulOutput& output, int panel) {
  const PackedMatrix& weight = *output.weight;
  const std::byte* w = weight.panel(panel);
  const int in = weight.in(), blocks = NumRowBlocks(rows, kMaxRows);
  HWY_ALIGN float out[kBlocksTogether * kMaxRows * kPanel];
  const auto one_block = [&](const auto* weights) {
    AllPanelRows(packed, rows, weights, in, out);
    Store(out, output, 0, rows, panel);
  };
  if (blocks == 1 && weight.type() == DType::kF32) {
    return one_block(reinterpret_cast<const float*>(w));
  }
  if (blocks == 1 && weight.type() == DType::kBF16) {
    return one_block(reinterpret_cast<const hwy::bfloat16_t*>(w));
  }
  if (blocks == 1 && weight.type() == DType::kF16) {
    return one_block(reinterpret_cast<const hwy::float16_t*>(w));
  }
  for (int first = 0; first < blocks; first += kBlocksTogether) {
    const int count = std::min(blocks - first, kBlocksTogether);
    int begin[kBlocksTogether + 1];
    for (int b = 0; b <= count; ++b) begin[b] = BlockStart(first + b, blocks, rows);
    MultiplyBlocks(packed, begin, count, weight, w, out);
    Store(out, output, begin[0], begin[count] - begin[0], panel);
  }
}

int RowFloats(int in) { return in; }

void MultiplyPanels(const float* packed, int rows, const MatMulOutput& output, int first, int end,
                    float*) {
  for (int panel = first; panel < end; ++panel) MultiplyPanel(packed, rows, output, panel);
}

MatMulKernel Kernel() { return {kMaxRows, RowFloats, InterleaveRows, MultiplyPanels}; }

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace packrat {

HWY_EXPORT(Kernel);

MatMulKernel Float32Kernel() { return HWY_DYNAMIC_DISPATCH(Kernel)(); }

}  // namespace packrat
#endif  // HWY_ONCE
