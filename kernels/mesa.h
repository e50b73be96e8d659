// The Mesa layer's mixer: a decayed sum of outer products of keys and values, read through the
// solution of a regularised linear system. von Oswald et al., arXiv 2506.05233.
//
// Block form: positions are cut into blocks of 16. The sealed state is that of the last finished
// block; the block's own tokens lie in the tail, and only a block's last token writes sealed state.
// With t the token within its block, G the cumulative log_gamma since the block's start, and
// C_s = exp(G_t - G_s) beta_s:
//   H_kk p = exp(G_t) (sealed H_kk p) + sum_{s <= t} C_s (k_s . p) k_s,  H_kv likewise with v_s
//   solve (H_kk + diag(lambda)) x = q by conjugate gradients, output x H_kv
// Decoding solves one system at a time with channels in the lanes, prompts solve a block's systems
// side by side, one in each lane; both do the same arithmetic in the same order.
#ifndef PACKRAT_KERNELS_MESA_H_
#define PACKRAT_KERNELS_MESA_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "kernels/context.h"
#include "kernels/gpu.h"
#include "kernels/paged.h"

namespace packrat {

inline constexpr int kMesaBlock = 16;  // Tokens.
inline constexpr int kMaxConvSize = 16;

struct MesaShape {
  int num_heads;  // H
  int head_dim;   // D
  int conv_size;  // Taps of the short convolutions, the current token's included.
  int width() const { return num_heads * head_dim; }
};

// Sealed state of one layer: per head, H_kk, then H_kv. P = PadTo16(D), n = P / 16.
//   H_kk (symmetric): blocks of 16 x 16 of the lower triangle, block (i, j) with j <= i at index
//   i (i + 1) / 2 + j, row-major.  H_kv: (P, P) row-major, key channel by value channel.
constexpr size_t MesaHkkFloats(int head_dim) {
  const size_t n = PadTo16(head_dim) / 16;
  return n * (n + 1) / 2 * 256;
}
constexpr size_t MesaHeadFloats(int head_dim) {
  return MesaHkkFloats(head_dim) + static_cast<size_t>(PadTo16(head_dim)) * PadTo16(head_dim);
}
constexpr size_t MesaSlotFloats(int num_heads, int head_dim) {
  return num_heads * MesaHeadFloats(head_dim);
}

// The tail: k (H, 16, P), v (H, 16, P), beta (H, 16), log_gamma (H, 16), then the inputs of the
// short convolutions at the last conv_size - 1 positions: q (conv_size - 1, H * D), k likewise, row
// (position mod (conv_size - 1)).
struct MesaTailLayout {
  size_t k, v, beta, log_gamma, conv_q, conv_k, end;  // Offsets, floats.
  constexpr MesaTailLayout(int num_heads, int head_dim, int conv_size)
      : k(0),
        v(static_cast<size_t>(num_heads) * 16 * PadTo16(head_dim)),
        beta(2 * v),
        log_gamma(beta + static_cast<size_t>(num_heads) * 16),
        conv_q(log_gamma + static_cast<size_t>(num_heads) * 16),
        conv_k(conv_q + static_cast<size_t>(PadTo16((conv_size - 1) * num_heads * head_dim))),
        end(conv_k + static_cast<size_t>(PadTo16((conv_size - 1) * num_heads * head_dim))) {}
};

struct MesaWeights {
  const float* conv_q;  // (conv_size, H * D): tap-major, the current token's tap last
  const float* conv_k;
  const float* conv_q_bias;  // (H * D) or null
  const float* conv_k_bias;
  const float* lambda;  // (H * D), positive: softplus(lambda_params) + lower bound
  const float* o_norm;  // (D)
  float norm_eps;
};

struct MesaSequence {
  Rows rows;
  const float* sealed_in;  // Read where the text has a finished block before these rows.
  float* sealed_out;       // Written at each block's end; may be sealed_in.
  float* tail;
  float cg_tolerance;  // Residual, relative to max(|q|, 1e-10), at which a solve stops.
  int cg_max_steps;
};

struct MesaOperands {
  const float* q;  // (tokens, H * D), before the convolution
  const float* k;
  const float* v;
  const float* beta;   // (tokens, H), before the sigmoid
  const float* gamma;  // (tokens, H), before the logsigmoid
  const float* gate;   // (tokens, H * D) before silu, or null where the layer has no output gate
  float* out;          // (tokens, H * D)
};

// Solver statistics of one sequence and head.
struct MesaSolves {
  int64_t steps = 0;
  int64_t unconverged = 0;    // Stopped by cg_max_steps.
  float max_residual = 0.0f;  // Relative, as the iteration carries it; NaN if any was.
};

constexpr size_t MesaScratchFloats(int head_dim) {
  const size_t padded = PadTo16(head_dim);
  return padded * padded + 16 * (10 * padded + 64);
}

// solves: (sequences, H), written.
void Mesa(const MesaShape& shape, const MesaWeights& weights,
          absl::Span<const MesaSequence> sequences, const MesaOperands& operands,
          MesaSolves* solves, KernelContext* context);

namespace gpu {

// Activations have elements of `type` (float32 or bfloat16). Slots have elements of `state_type`,
// tails are float32; layouts are those of the CPU.
struct MesaOperands {
  const void* q;  // (tokens, H * D), before the convolution
  const void* k;
  const void* v;
  const void* gate;    // Before silu; null where the layer has no output gate.
  int stride;          // Elements from row to row of q, k, v and gate.
  const float* beta;   // (tokens, H), before the sigmoid
  const float* gamma;  // (tokens, H), before the logsigmoid
  int scalar_stride;   // Elements from row to row of beta and gamma.
  void* out;           // (tokens, H * D), dense
  DType type;
  DType state_type;
};

// Scratch of one Mesa(). Not read before it is written.
size_t MesaScratchBytes(const MesaShape& shape, int max_spans, int max_tokens);

// Shared memory that a block of its kernels takes, bytes: a device must offer as much
// (cudaDeviceProp::sharedMemPerBlockOptin).
size_t MesaSharedBytes(const MesaShape& shape, DType state_type);

// weights: device pointers. stats: (spans), added to.
absl::Status Mesa(const MesaShape& shape, const MesaWeights& weights, const GpuBatch& batch,
                  const GpuParts& slots, const GpuParts& tails, const MesaOperands& operands,
                  GpuStats* stats, void* scratch, CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_MESA_H_
