// What an operation has to move and to compute: the bytes and operations that no implementation can
// do without, from which shares of the hardware's limits are taken and times are predicted.
//
// Rules: every operand is read once and every result written once; state is counted at the size the
// mathematics needs (a symmetric matrix is its triangle), weights of the layer once for a launch.
// Averages over the 16 tokens of a block or chunk, of which the last one writes a page or slot.
#ifndef PACKRAT_TESTS_BENCH_GPU_WORK_H_
#define PACKRAT_TESTS_BENCH_GPU_WORK_H_

#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/dtype.h"
#include "kernels/mesa.h"
#include "kernels/rat.h"
#include "kernels/rat_plus.h"
#include "tests/bench/random_model.h"

namespace packrat::gpu_bench {

struct Work {
  double bytes = 0;
  double flops = 0;
  Work& operator+=(const Work& other) {
    bytes += other.bytes, flops += other.flops;
    return *this;
  }
  Work operator*(double n) const { return {bytes * n, flops * n}; }
};

// What the device can do: assumed until limits.cc has measured it.
struct Limits {
  double bytes_per_second = 4.0e12;  // Read plus written, of a copy.
  double bf16_flops = 790e12, f32_flops = 60e12;
  bool measured = false;
};

enum class Rate { kNone, kBf16, kF32 };  // kNone: operations take no time.
struct Kernel {
  Work work;
  Rate rate = Rate::kNone;  // Of its operations.
};
// Kernels that run one after the other: while one computes, the memory waits for the next.
using Kernels = std::vector<Kernel>;
Work Sum(const Kernels& kernels);

// The time that kernels take at least: the sum of what each takes for its bytes or for its
// operations, whichever is longer.
struct Floor {
  double seconds = 0;
  std::string limited_by;  // "bandwidth", "bf16 products", "float32 operations", or two of them.
  bool by_bytes = true;    // Most of the time.
};
Floor FloorOf(const Kernels& kernels, const Limits& limits);

// `type_bytes`: of an activation and of an entry of a page. `position`: tokens before this one.

// One token: position / L entries of 2 H D; projection, output, running chunk (read and written, in
// float32), rotary row; an L-th of an entry's write.
Work RatToken(const RatShape& shape, int type_bytes, int position);
// A whole prompt: its pages are written and read once by each tile of `tile` tokens.
Work RatPrompt(const RatShape& shape, int type_bytes, int tokens);

// One token of RatPlusAttention(): entries of 2 H D that it keeps or has in its window, its own
// written, what leaves the window read and written once in `dilation` tokens; queries, keys, values
// and output, rotary row.
Work RatPlusToken(const RatPlusShape& shape, int type_bytes, int position);

// One token: 2 KV D for each visible position and its own; queries, output, rotary row.
Work AttentionToken(const AttentionShape& shape, int type_bytes, int position);
Work AttentionPrompt(const AttentionShape& shape, int type_bytes, int tokens);

// One token, all heads: sealed triangle D (D + 1) / 2 and H_kv D^2, a sixteenth of their write; of
// the tail 7.5 rows of k and v read on average and one written, beta and gamma likewise; the
// convolutions' rows read and one written; activations. `steps`: of the conjugate gradients.
Work MesaToken(const MesaShape& shape, int type_bytes, int state_bytes, double steps, bool gate);
// Bytes of the above that are state, per head: what the sealed matrices, the tail and the
// convolutions take.
double MesaStateBytesPerHead(const MesaShape& shape, int state_bytes);
Work MesaPrompt(const MesaShape& shape, int type_bytes, int state_bytes, double steps, bool gate,
                int tokens);

// Of a weight, with its share of scales and minima.
double WeightBytes(DType type);
// x is bfloat16.
Work Product(int rows, int out, int in, DType weight, int y_bytes);

// Of one step that decodes `batch` sequences with `position` tokens each: weights and caches only,
// as a floor is stated; operations of mixers at the rate of float32. weights: of the layers'
// matrices; where they are quantised, the output matrix is int8.
Kernels ModelDecode(const RandomModelShape& shape, int batch, int position,
                    DType weights = DType::kBF16);
// Operations of a prompt, one row of logits.
double ModelPromptFlops(const RandomModelShape& shape, int tokens);
double ModelParameters(const RandomModelShape& shape);

// The shape that most rows are about: 24 RAT layers of width 2048, 16 heads of 128, 2 groups, chunk
// 16; SwiGLU of 5632, 32,000 tokens, tied: 1.32 billion parameters.
RandomModelShape Rat1300M();

}  // namespace packrat::gpu_bench

#endif  // PACKRAT_TESTS_BENCH_GPU_WORK_H_
