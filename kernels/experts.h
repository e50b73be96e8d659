// A mixture of experts: gated feed-forwards of which each token goes through the few that a router
// scores highest.
//   p = softmax(logits), or each logit's sigmoid
//   C = the num_chosen experts of the largest p + bias, in falling order; of equals the first
//   w_e = route_scale p_e / n,  n = normalize_eps + sum of p over C if `normalize`, else 1
//   x += scale sum over C, in its order, of w_e down_e (silu(gate_e h) * up_e h)
// What a token gets does not depend on those beside it. A logit that is NaN is the last to be
// chosen.
#ifndef PACKRAT_KERNELS_EXPERTS_H_
#define PACKRAT_KERNELS_EXPERTS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/context.h"
#include "kernels/dtype.h"
#include "kernels/gpu.h"
#include "kernels/matmul.h"

namespace packrat {

inline constexpr int kMaxExperts = kMostGroups;

enum class RouterScore : uint8_t { kSoftmax, kSigmoid };

struct ExpertsShape {
  int num_experts;  // kMaxExperts at most.
  int num_chosen;   // Of a token; num_experts at most.
  int hidden;
  int width;  // Of an expert, between its matrices.
  RouterScore score;
  bool normalize;
  float normalize_eps;
  float route_scale;
};

struct ExpertsWeights {
  Weight up;          // num_experts times (2 * width, hidden), the gate's rows first
  Weight down;        // num_experts times (hidden, width)
  const float* bias;  // (num_experts) or null
};

// What the operation leaves in memory between its steps. rows: tokens * num_chosen, one for each
// expert of each token, sorted by expert and then by token.
struct ExpertsMemory {
  int32_t* chosen;  // (tokens, num_chosen): experts
  float* shares;    // (tokens, num_chosen): w
  int32_t* row_of;  // (tokens, num_chosen)
  int32_t* token;   // (rows): whose each is
  int32_t* begins;  // (num_experts + 1): an expert's rows begin here and end where the next begin
  void* up;         // (rows, 2 * width) of `type`
  void* inner;      // (rows, width) of `type`; on a GPU alone
  float* down;      // (rows, hidden)
};

struct ExpertsOperands {
  const float* logits;  // (tokens, num_experts)
  const void* h;        // (tokens, hidden)
  DType type;           // Of h: float32, on a GPU bfloat16 too, and there of weights not quantised.
  ExpertsMemory memory;
  float* x;  // (tokens, hidden)
  float scale;
};

// Needs what MatMul() of groups does for each of the weights, with a row for each token.
absl::Status Experts(const ExpertsShape& shape, const ExpertsWeights& weights, int tokens,
                     const ExpertsOperands& operands, KernelContext* context);

namespace gpu {

absl::Status Experts(const ExpertsShape& shape, const ExpertsWeights& weights, int tokens,
                     const ExpertsOperands& operands, CudaStream stream);

}  // namespace gpu

}  // namespace packrat

#endif  // PACKRAT_KERNELS_EXPERTS_H_
