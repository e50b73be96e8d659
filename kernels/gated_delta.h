// The mixer of a gated delta network: a decayed sum of outer products of keys and values, in which
// every token first takes out what its key already reads. Yang et al., arXiv 2412.06464, as
// transformers runs it in qwen3_next and qwen3_5. Per value head, with q, k and v behind a short
// convolution and silu, q and k at length one and q scaled by key_dim^-0.5:
//   S_t = g_t S_{t-1} + k_t' u_t,  u_t = beta_t (v_t - k_t (g_t S_{t-1})),  o_t = q_t S_t
//   g_t = exp(-decay_rate softplus(decay_t + dt_bias)),  beta_t = beta_scale sigmoid(beta_t)
// and the output is rms(o_t) weight silu(gate_t).
//
// Block form: positions are cut into blocks of 16. The sealed state S is that of the last finished
// block; the block's own tokens lie in the tail as k_s, u_s and log g_s, and only a block's last
// token writes sealed state. With G the cumulative log g since the block's start:
//   k_t (g_t S_{t-1}) = exp(G_t) (k_t S) + sum_{s < t} exp(G_t - G_s) (k_t . k_s) u_s
//   q_t S_t           = exp(G_t) (q_t S) + sum_{s <= t} exp(G_t - G_s) (q_t . k_s) u_s
// so that one reading of S serves both. A prompt reads S once a block, for the products of all the
// block's keys and queries; the sums have the same order as in decoding.
#ifndef PACKRAT_KERNELS_GATED_DELTA_H_
#define PACKRAT_KERNELS_GATED_DELTA_H_

#include <cstddef>

#include "absl/status/status.h"
#include "kernels/batch.h"
#include "kernels/context.h"
#include "kernels/gpu.h"
#include "kernels/short_conv.h"

namespace packrat {

struct GatedDeltaShape {
  int num_key_heads;    // K, divides H
  int num_value_heads;  // H: value head j uses key head j / (H / K).
  int key_dim;          // E
  int value_dim;        // D
  int conv_size;        // Taps of the short convolution, the current token's included.
  constexpr int keys() const { return num_key_heads * key_dim; }
  constexpr int values() const { return num_value_heads * value_dim; }
  constexpr int channels() const { return 2 * keys() + values(); }  // Of the convolution: q, k, v.
};

// Sealed state of one layer: S (H, PE, PD), key channel by value channel, PE = PadTo16(E),
// PD = PadTo16(D).
constexpr size_t GatedDeltaHeadFloats(const GatedDeltaShape& s) {
  return static_cast<size_t>(PadTo16(s.key_dim)) * PadTo16(s.value_dim);
}
constexpr size_t GatedDeltaSlotFloats(const GatedDeltaShape& s) {
  return s.num_value_heads * GatedDeltaHeadFloats(s);
}

// The tail: k (K, 16, PE), u (H, 16, PD), log_decay (H, 16), then what the short convolution keeps.
struct GatedDeltaTailLayout {
  size_t k, u, log_decay, conv, end;  // Offsets, floats.
  constexpr explicit GatedDeltaTailLayout(const GatedDeltaShape& s)
      : k(0),
        u(static_cast<size_t>(s.num_key_heads) * kBlockTokens * PadTo16(s.key_dim)),
        log_decay(u + static_cast<size_t>(s.num_value_heads) * kBlockTokens * PadTo16(s.value_dim)),
        conv(log_decay + static_cast<size_t>(s.num_value_heads) * kBlockTokens),
        end(conv +
            ShortConvTailFloats(2 * s.num_key_heads * s.key_dim + s.num_value_heads * s.value_dim,
                                s.conv_size)) {}
};

struct GatedDeltaWeights {
  const float* conv;        // (conv_size, channels()): tap-major, the current token's tap last
  const float* conv_bias;   // (channels()) or null
  const float* decay_rate;  // (H), positive: exp(A_log)
  const float* dt_bias;     // (H)
  const float* norm;        // (D)
  float norm_eps;
  float beta_scale = 1.0f;  // 2: the state may turn over along a key.
};

// Activations have elements of `type` and slots of `state_type`: float32, and on a GPU bfloat16
// too. Tails are float32.
struct GatedDeltaOperands {
  const void* qkv;  // (tokens, channels()), before the convolution: q (K * E), k (K * E), v (H * D)
  const void* gate;    // (tokens, H * D), before silu
  int stride;          // Elements from row to row of qkv and gate.
  const float* beta;   // (tokens, H), before the sigmoid
  const float* decay;  // (tokens, H), before dt_bias and the softplus
  int scalar_stride;   // Elements from row to row of beta and decay.
  void* out;           // (tokens, H * D), dense
  DType type;
  DType state_type;
};

// Floats of KernelContext scratch per thread.
constexpr size_t GatedDeltaScratchFloats(const GatedDeltaShape& s) {
  return size_t{kBlockTokens} *
         (2 * PadTo16(s.key_dim) + 4 * PadTo16(s.value_dim) + 2 * kBlockTokens);
}

// totals: (spans), added to: whether all outputs are finite.
absl::Status GatedDelta(const GatedDeltaShape& shape, const GatedDeltaWeights& weights,
                        const BatchView& batch, const StateParts& slots, const StateParts& tails,
                        const GatedDeltaOperands& operands, SpanTotals* totals,
                        KernelContext* context);

// The same, reading and sealing S in the processor's dot products of bfloat16, with slots as
// kernels/paired_state.h says. Only where CpuHasBFloat16() (kernels/cpu_target.h).
absl::Status GatedDeltaInBFloat16(const GatedDeltaShape& shape, const GatedDeltaWeights& weights,
                                  const BatchView& batch, const StateParts& slots,
                                  const StateParts& tails, const GatedDeltaOperands& operands,
                                  SpanTotals* totals, KernelContext* context);

namespace gpu {

// Scratch of one GatedDelta(). Not read before it is written.
size_t GatedDeltaScratchBytes(const GatedDeltaShape& shape, int max_spans, int max_tokens);

// Shared memory that a block of its kernels takes, bytes: a device must offer as much
// (cudaDeviceProp::sharedMemPerBlockOptin).
size_t GatedDeltaSharedBytes(const GatedDeltaShape& shape);

absl::Status GatedDelta(const GatedDeltaShape& shape, const GatedDeltaWeights& weights,
                        const BatchView& batch, const StateParts& slots, const StateParts& tails,
                        const GatedDeltaOperands& operands, SpanTotals* totals, void* scratch,
                        CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_GATED_DELTA_H_
