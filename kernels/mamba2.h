// The mixer of Mamba-2: a decayed sum of outer products (SSD). Dao and Gu, arXiv 2405.21060, as
// transformers runs it in mamba2, granitemoehybrid, falcon_h1 and nemotron_h. Per head, with x, B
// and C behind a short convolution and silu:
//   S_t = exp(-decay_rate dt_t) S_{t-1} + B_t' u_t,  u_t = dt_t x_t,  y_t = C_t S_t + skip x_t
//   dt_t = clamp(softplus(dt_scale dt_t + dt_bias), dt_min, dt_max)
// and then a gate z and a norm over parts of all the heads' channels (Mamba2Norm).
//
// Block form: positions are cut into blocks of 16. The sealed state S is that of the last finished
// block; the block's own tokens lie in the tail as B_s, u_s and the logarithms of their decays, and
// only a block's last token writes sealed state. With G the cumulative logarithm since the block's
// start:
//   C_t S_t = exp(G_t) (C_t S) + sum_{s <= t} exp(G_t - G_s) (C_t . B_s) u_s
// A prompt reads S once a block, for all of the block's tokens; the sums have the same order as in
// decoding.
#ifndef PACKRAT_KERNELS_MAMBA2_H_
#define PACKRAT_KERNELS_MAMBA2_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/batch.h"
#include "kernels/context.h"
#include "kernels/gpu.h"
#include "kernels/short_conv.h"

namespace packrat {

struct Mamba2Shape {
  int num_heads;   // H
  int num_groups;  // G, divides H: head j reads B and C of group j / (H / G).
  int head_dim;    // P
  int state_size;  // N
  int conv_size;   // Taps of the short convolution, the current token's included.
  constexpr int values() const { return num_heads * head_dim; }
  constexpr int keys() const { return num_groups * state_size; }
  constexpr int channels() const { return values() + 2 * keys(); }  // Of the convolution: x, B, C.
};

// Sealed state of one layer: S (H, PN, PP), state channel by head channel, PN = PadTo16(N),
// PP = PadTo16(P).
constexpr size_t Mamba2HeadFloats(const Mamba2Shape& s) {
  return static_cast<size_t>(PadTo16(s.state_size)) * PadTo16(s.head_dim);
}
constexpr size_t Mamba2SlotFloats(const Mamba2Shape& s) {
  return s.num_heads * Mamba2HeadFloats(s);
}

// The tail: B (G, 16, PN), u (H, 16, PP), log_decay (H, 16), then what the short convolution keeps.
struct Mamba2TailLayout {
  size_t b, u, log_decay, conv, end;  // Offsets, floats.
  constexpr explicit Mamba2TailLayout(const Mamba2Shape& s)
      : b(0),
        u(static_cast<size_t>(s.num_groups) * kBlockTokens * PadTo16(s.state_size)),
        log_decay(u + static_cast<size_t>(s.num_heads) * kBlockTokens * PadTo16(s.head_dim)),
        conv(log_decay + static_cast<size_t>(s.num_heads) * kBlockTokens),
        end(conv + ShortConvTailFloats(s.channels(), s.conv_size)) {}
};

// What the heads share of a token, made before they run, and their results before gate and norm:
// B and C (G, PN), on the CPU in bfloat16 C as pairs; C_t . B_s for the tokens s of the block up to
// t (G, 16); dt and the logarithm of the decay (H); y (H * P).
struct Mamba2TokenLayout {
  size_t b, c, dots, dt, log_decay, y, end;  // Offsets, floats.
  constexpr explicit Mamba2TokenLayout(const Mamba2Shape& s)
      : b(0),
        c(static_cast<size_t>(s.num_groups) * PadTo16(s.state_size)),
        dots(2 * c),
        dt(dots + static_cast<size_t>(s.num_groups) * kBlockTokens),
        log_decay(dt + PadTo16(s.num_heads)),
        y(log_decay + PadTo16(s.num_heads)),
        end(y + PadTo16(s.values())) {}
};

// rms(): RMS norm over each of norm_groups equal parts of the (H * P) channels, times the weight.
enum class Mamba2Norm : uint8_t {
  kNone,        // y silu(z)
  kBeforeGate,  // rms(y) silu(z)
  kAfterGate,   // rms(y silu(z))
};

struct Mamba2Weights {
  const float* conv;        // (conv_size, channels()): tap-major, the current token's tap last
  const float* conv_bias;   // (channels()) or null
  const float* decay_rate;  // (H), positive: exp(A_log)
  const float* skip;        // (H): D
  const float* dt_bias;     // (H)
  const float* norm;        // (H * P); null for kNone
  float norm_eps;
  int norm_groups;  // Divides H * P.
  Mamba2Norm gating;
  float dt_min, dt_max;  // dt_max may be infinite.
  float dt_scale, gate_scale;
};

// Activations have elements of `type` and slots of `state_type`: float32, and on a GPU bfloat16
// too. Tails are float32.
struct Mamba2Operands {
  const void* gate;  // (tokens, H * P): z, before gate_scale and silu
  const void* xbc;  // (tokens, channels()), before the convolution: x (H * P), B (G * N), C (G * N)
  int stride;       // Elements from row to row of gate and xbc.
  const float* dt;  // (tokens, H), before all of the above
  int dt_stride;
  float* memory;  // (tokens, Mamba2TokenLayout::end): written, then read
  void* out;      // (tokens, H * P), dense
  DType type;
  DType state_type;
};

// Floats of KernelContext scratch per thread.
constexpr size_t Mamba2ScratchFloats(const Mamba2Shape& s) {
  return size_t{2} * kBlockTokens * PadTo16(s.head_dim);
}

// totals: (spans), added to: whether all outputs are finite.
absl::Status Mamba2(const Mamba2Shape& shape, const Mamba2Weights& weights, const BatchView& batch,
                    const StateParts& slots, const StateParts& tails,
                    const Mamba2Operands& operands, SpanTotals* totals, KernelContext* context);

// The same, reading and sealing S in the processor's dot products of bfloat16, with slots as
// kernels/paired_state.h says. Only where CpuHasBFloat16() (kernels/cpu_target.h).
absl::Status Mamba2InBFloat16(const Mamba2Shape& shape, const Mamba2Weights& weights,
                              const BatchView& batch, const StateParts& slots,
                              const StateParts& tails, const Mamba2Operands& operands,
                              SpanTotals* totals, KernelContext* context);

namespace gpu {

// Shared memory that a block of its kernels takes, bytes: a device must offer as much
// (cudaDeviceProp::sharedMemPerBlockOptin).
size_t Mamba2SharedBytes(const Mamba2Shape& shape);

absl::Status Mamba2(const Mamba2Shape& shape, const Mamba2Weights& weights, const BatchView& batch,
                    const StateParts& slots, const StateParts& tails,
                    const Mamba2Operands& operands, SpanTotals* totals, CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_MAMBA2_H_
