// Products of bfloat16 in the processor's tiles (AMX-BF16). Highway has no such target, and the
// compiler's intrinsics take the number of a tile as a literal alone, hence the instructions.
#include "kernels/matmul_tiles-inl.h"

namespace packrat {
namespace {

struct ProcessorTiles {
  static void Configure(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
  template <TileRegister kTile>
  static void Load(const void* from, ptrdiff_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <TileRegister kSums, TileRegister kInputs, TileRegister kWeights>
  static void MultiplyAdd() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0"
                 :
                 : "i"(kSums), "i"(kInputs), "i"(kWeights));
  }
  template <TileRegister kTile>
  static void Store(float* to, ptrdiff_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  static void Release() { asm volatile("tilerelease"); }
};

int Pairs(int in) { return (in + 1) / 2; }

// x (n, in) to (n, pairs, 2).
void Pack(const float* x, ptrdiff_t stride, int n, int in, float* packed) {
  for (int r = 0; r < n; ++r) RoundToPairs(x + r * stride, in, packed + ptrdiff_t{r} * Pairs(in));
}

}  // namespace

MatMulKernel TilesKernel() {
  return {kTileRows, Pairs, Pack, MultiplyPanelsByTiles<ProcessorTiles>};
}

}  // namespace packrat
