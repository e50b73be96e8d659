// Operations that compute each row from that row alone.
#ifndef PACKRAT_KERNELS_ELEMENTWISE_H_
#define PACKRAT_KERNELS_ELEMENTWISE_H_

#include <cstddef>

#include "absl/status/status.h"
#include "kernels/batch.h"
#include "kernels/context.h"
#include "kernels/gpu.h"

namespace packrat {

struct RopeTable;     // kernels/rope.h
struct SampledToken;  // kernels/sampling.h, where SampledInRow() is as well.

// `type`, where there is one, is that of the activations: float32, and on a GPU bfloat16 too. The
// residual stream is always float32.

// y = x * rsqrt(mean(x^2) + eps) * weight. x: (rows, n) float32; y: (rows, n) of `type`. On the CPU
// they may be the same.
absl::Status RmsNorm(const float* x, int rows, int n, const float* weight, float eps, void* y,
                     DType type, KernelContext* context);

// One row of it, on the CPU.
void RmsNormRow(const float* x, int n, const float* weight, float eps, float* y);

// The same for chosen rows: y[i] from x[indices[i]]. An index of -1: y[i] is zero.
absl::Status RmsNormRows(const float* x, const int32_t* indices, int rows, int n,
                         const float* weight, float eps, void* y, DType type,
                         KernelContext* context);

// In place, each of the first `heads` heads of each row by itself: x = x * rsqrt(mean(x^2) + eps) *
// weight. x: (rows, heads, head_dim), `stride` elements from row to row; weight: (head_dim).
absl::Status RmsNormHeads(void* x, int stride, int rows, int heads, int head_dim,
                          const float* weight, float eps, DType type, KernelContext* context);

// x += RmsNorm(y); both (rows, n) float32.
absl::Status AddRmsNorm(const float* y, int rows, int n, const float* weight, float eps, float* x,
                        KernelContext* context);

// y (rows, n) of `type` = x.
absl::Status Convert(const float* x, int rows, int n, void* y, DType type, KernelContext* context);

// A gated linear unit: y (rows, n) = function(scale * gate) * up; gate_up: (rows, 2n), the gate
// first in each row. kGeluTanh: GELU by tanh, x * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
enum class GateFunction { kSilu, kGeluTanh };
struct Gating {
  GateFunction function = GateFunction::kSilu;
  float scale = 1.0f;
};
absl::Status Glu(const Gating& gating, const void* gate_up, int rows, int n, void* y, DType type,
                 KernelContext* context);

// One row of it, on the CPU.
void GluRow(const Gating& gating, const float* gate_up, int n, float* y);

// In place: y = y * sigmoid(gate). y: (rows, n); gate: (rows, n), `stride` elements from row to
// row.
absl::Status SigmoidGate(const void* gate, int stride, int rows, int n, void* y, DType type,
                         KernelContext* context);

// In place: x = x * (1 + erf(x / sqrt 2)) / 2, the exact GELU. x: (rows, n).
absl::Status Gelu(void* x, int rows, int n, DType type, KernelContext* context);

// In place: x = max(x, 0)^2. x: (rows, n).
absl::Status SquaredRelu(void* x, int rows, int n, DType type, KernelContext* context);

// In place: x = cap * tanh(x / cap). x: (rows, n) float32.
absl::Status SoftCap(float cap, int rows, int n, float* x, KernelContext* context);

// Sets not_finite of every span that has a NaN or an infinity in one of its rows of x (tokens, n).
absl::Status CheckFinite(const BatchView& batch, const float* x, int n, SpanTotals* totals,
                         KernelContext* context);

// True if every one of the n values is finite. On the host.
bool AllFinite(const float* x, size_t n);

namespace gpu {

// What a step begins with besides, in the same launch: it fills rotary tables (FillRope()) and
// clears totals.
struct StepBeginning {
  BatchView batch;
  const RopeTable* ropes = nullptr;  // (num_ropes)
  int num_ropes = 0;
  SpanTotals* totals = nullptr;  // (batch.num_spans)
};

// x[t] = scale * row tokens[t] of the embedding (vocab, n), of `type`, quantised ones as a Weight
// (kernels/matmul.h); zero for unused tokens (-1), and for a SampledInRow() that has nothing in
// `sampled`, the results of the step before.
absl::Status Embed(const void* embedding, DType type, const int32_t* tokens,
                   const SampledToken* sampled, int rows, int n, float scale, float* x,
                   const StepBeginning& beside, CudaStream stream);

absl::Status RmsNorm(const float* x, int rows, int n, const float* weight, float eps, void* y,
                     DType type, CudaStream stream);
absl::Status RmsNormRows(const float* x, const int32_t* indices, int rows, int n,
                         const float* weight, float eps, void* y, DType type, CudaStream stream);
absl::Status RmsNormHeads(void* x, int stride, int rows, int heads, int head_dim,
                          const float* weight, float eps, DType type, CudaStream stream);
absl::Status AddRmsNorm(const float* y, int rows, int n, const float* weight, float eps, float* x,
                        CudaStream stream);
absl::Status Convert(const float* x, int rows, int n, void* y, DType type, CudaStream stream);
absl::Status Glu(const Gating& gating, const void* gate_up, int rows, int n, void* y, DType type,
                 CudaStream stream);
absl::Status SigmoidGate(const void* gate, int stride, int rows, int n, void* y, DType type,
                         CudaStream stream);
absl::Status Gelu(void* x, int rows, int n, DType type, CudaStream stream);
absl::Status SquaredRelu(void* x, int rows, int n, DType type, CudaStream stream);
absl::Status SoftCap(float cap, int rows, int n, float* x, CudaStream stream);
absl::Status CheckFinite(const BatchView& batch, const float* x, int n, SpanTotals* totals,
                         CudaStream stream);
// Zeros. `to` is aligned to 4 bytes, and `bytes` a multiple of 4.
absl::Status Clear(void* to, size_t bytes, CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_ELEMENTWISE_H_
