#include "kernels/experts.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>

#include "kernels/check.h"
#include "kernels/elementwise.h"

namespace packrat {
namespace {

// How a router weighs one token's experts.
class Router {
 public:
  Router(const ExpertsShape& shape, const float* bias, const float* logits)
      : shape_(shape), bias_(bias), logits_(logits) {
    if (shape.score == RouterScore::kSigmoid) return;
    for (int e = 0; e < shape.num_experts; ++e) largest_ = std::fmax(largest_, logits[e]);
    // What all are divided by comes out again where those that were chosen are normalized.
    if (shape.normalize && shape.normalize_eps == 0.0f && bias == nullptr) return;
    total_ = 0.0f;
    for (int e = 0; e < shape.num_experts; ++e) total_ += std::exp(logits[e] - largest_);
  }

  // chosen, shares: (num_chosen)
  void Choose(int32_t* chosen, float* shares) const {
    float keys[kMaxExperts];
    for (int e = 0; e < shape_.num_experts; ++e) {
      keys[e] = bias_ == nullptr ? logits_[e] : Score(e) + bias_[e];
      if (std::isnan(keys[e])) keys[e] = -std::numeric_limits<float>::infinity();
    }
    float sum = 0.0f;
    for (int c = 0; c < shape_.num_chosen; ++c) {
      const int before = c == 0 ? -1 : chosen[c - 1];
      int best = -1;
      for (int e = 0; e < shape_.num_experts; ++e) {
        const bool free =
            before < 0 || keys[e] < keys[before] || (keys[e] == keys[before] && e > before);
        if (free && (best < 0 || keys[e] > keys[best])) best = e;
      }
      chosen[c] = best;
      shares[c] = Score(best);
      sum += shares[c];
    }
    const float divisor = shape_.normalize ? sum + shape_.normalize_eps : 1.0f;
    for (int c = 0; c < shape_.num_chosen; ++c) {
      shares[c] = shares[c] / divisor * shape_.route_scale;
    }
  }

 private:
  float Score(int e) const {
    if (shape_.score == RouterScore::kSigmoid) return 1.0f / (1.0f + std::exp(-logits_[e]));
    return std::exp(logits_[e] - largest_) / total_;
  }

  const ExpertsShape& shape_;
  const float *bias_, *logits_;
  float largest_ = -std::numeric_limits<float>::infinity(), total_ = 1.0f;
};

// Fills row_of, token and begins.
void SortByExpert(const ExpertsShape& shape, int tokens, const ExpertsMemory& m) {
  const int rows = tokens * shape.num_chosen;
  std::fill_n(m.begins, shape.num_experts + 1, 0);
  for (int i = 0; i < rows; ++i) ++m.begins[m.chosen[i] + 1];
  for (int e = 0; e < shape.num_experts; ++e) m.begins[e + 1] += m.begins[e];
  for (int i = 0; i < rows; ++i) {  // Each begin becomes its end ...
    const int row = m.begins[m.chosen[i]]++;
    m.row_of[i] = row;
    m.token[row] = i / shape.num_chosen;
  }
  std::memmove(m.begins + 1, m.begins, shape.num_experts * sizeof *m.begins);
  m.begins[0] = 0;  // ... which is the next one's begin.
}

// x (hidden) += the token's rows of `down`, weighted.
void AddRows(const ExpertsShape& shape, const int32_t* rows, const float* shares, const float* down,
             float scale, float* x) {
  constexpr int kChannels = 64;
  for (int begin = 0; begin < shape.hidden; begin += kChannels) {
    const int n = std::min(kChannels, shape.hidden - begin);
    float sum[kChannels] = {};
    for (int c = 0; c < shape.num_chosen; ++c) {
      const float* row = down + static_cast<ptrdiff_t>(rows[c]) * shape.hidden + begin;
      for (int i = 0; i < n; ++i) sum[i] += shares[c] * row[i];
    }
    for (int i = 0; i < n; ++i) x[begin + i] += scale * sum[i];
  }
}

}  // namespace

absl::Status Experts(const ExpertsShape& shape, const ExpertsWeights& weights, int tokens,
                     const ExpertsOperands& operands, KernelContext* context) {
  const int experts = shape.num_experts, chosen = shape.num_chosen;
  PACKRAT_CHECK(operands.type == DType::kF32);
  PACKRAT_CHECK(chosen >= 1 && chosen <= experts && experts <= kMaxExperts) << experts;
  if (tokens == 0) return absl::OkStatus();
  const ExpertsMemory& m = operands.memory;
  constexpr int kTokens = 8;  // Of a task.
  const auto for_each_token = [&](const auto& body) {
    context->pool.Run((tokens + kTokens - 1) / kTokens, [&](int64_t task, int) {
      for (int64_t t = task * kTokens; t < std::min<int64_t>(tokens, (task + 1) * kTokens); ++t) {
        body(t);
      }
    });
  };
  for_each_token([&](int64_t t) {
    Router(shape, weights.bias, operands.logits + t * experts)
        .Choose(m.chosen + t * chosen, m.shares + t * chosen);
  });
  SortByExpert(shape, tokens, m);

  const auto* h = static_cast<const float*>(operands.h);
  auto* up = static_cast<float*>(m.up);
  const auto matrices = [](const Weight& weight) {
    return static_cast<const PackedMatrix*>(weight.data);
  };
  const auto gather = [&](int row, float* to) {
    std::copy_n(h + static_cast<ptrdiff_t>(m.token[row]) * shape.hidden, shape.hidden, to);
  };
  MatMul(gather, MatMulGroups{experts, matrices(weights.up), m.begins}, up, context);
  const auto gate = [&](int row, float* to) {
    GluRow({}, up + ptrdiff_t{2} * row * shape.width, shape.width, to);
  };
  MatMul(gate, MatMulGroups{experts, matrices(weights.down), m.begins}, m.down, context);
  for_each_token([&](int64_t t) {
    AddRows(shape, m.row_of + t * chosen, m.shares + t * chosen, m.down, operands.scale,
            operands.x + t * shape.hidden);
  });
  return absl::OkStatus();
}

}  // namespace packrat
