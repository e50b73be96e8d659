// The Mesa layer's mixer: a decayed sum of outer products of keys and values, read through the
// solution of a regularised linear system. von Oswald et al., arXiv 2506.05233.
//
// Block form: positions are cut into blocks of 16. The sealed state is that of the last finished
// block; the block's own tokens lie in the tail, and only a block's last token writes sealed state.
// With t the token within its block, G the cumulative log_gamma since the block's start, and
// C_s = exp(G_t - G_s) beta_s:
//   H_kk p = exp(G_t) (sealed H_kk p) + sum_{s <= t} C_s (k_s . p) k_s,  H_kv likewise with v_s
//   solve (H_kk + diag(lambda)) x = q by conjugate gradients, output x H_kv
// Decoding solves one system at a time, prompts a block's systems side by side; both do the same
// arithmetic in the same order.
#ifndef PACKRAT_KERNELS_MESA_H_
#define PACKRAT_KERNELS_MESA_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/batch.h"
#include "kernels/context.h"
#include "kernels/gpu.h"
#include "kernels/short_conv.h"

namespace packrat {

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

// The tail: k (H, 16, P), v (H, 16, P), beta (H, 16), log_gamma (H, 16), then what the short
// convolutions of q and of k keep (kernels/short_conv.h), H * D channels each.
struct MesaTailLayout {
  size_t k, v, beta, log_gamma, conv_q, conv_k, end;  // Offsets, floats.
  constexpr MesaTailLayout(int num_heads, int head_dim, int conv_size)
      : k(0),
        v(static_cast<size_t>(num_heads) * 16 * PadTo16(head_dim)),
        beta(2 * v),
        log_gamma(beta + static_cast<size_t>(num_heads) * 16),
        conv_q(log_gamma + static_cast<size_t>(num_heads) * 16),
        conv_k(conv_q + ShortConvTailFloats(num_heads * head_dim, conv_size)),
        end(conv_k + ShortConvTailFloats(num_heads * head_dim, conv_size)) {}
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

// Activations have elements of `type` and slots of `state_type`: float32, and on a GPU bfloat16
// too. Tails are float32.
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

// Floats of KernelContext scratch per thread.
constexpr size_t MesaScratchFloats(int head_dim) {
  const size_t padded = PadTo16(head_dim);
  return padded * padded + 16 * 8 * padded;
}

// totals: (spans), added to.
absl::Status Mesa(const MesaShape& shape, const MesaWeights& weights, const BatchView& batch,
                  const StateParts& slots, const StateParts& tails, const MesaOperands& operands,
                  SpanTotals* totals, KernelContext* context);

namespace gpu {

// Scratch of one Mesa(). Not read before it is written.
size_t MesaScratchBytes(const MesaShape& shape, int max_spans, int max_tokens);

// Shared memory that a block of its kernels takes, bytes: a device must offer as much
// (cudaDeviceProp::sharedMemPerBlockOptin).
size_t MesaSharedBytes(const MesaShape& shape, DType state_type);

absl::Status Mesa(const MesaShape& shape, const MesaWeights& weights, const BatchView& batch,
                  const StateParts& slots, const StateParts& tails, const MesaOperands& operands,
                  SpanTotals* totals, void* scratch, CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_MESA_H_
