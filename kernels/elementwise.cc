#include "kernels/elementwise.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/vec16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

void RmsNormRowTarget(const float* x, int n, const float* weight, float eps, float* y) {
  V16 sum = Zero();
  for (int i = 0; i < n; i += 16) {
    const V16 v = LoadFirst(x + i, n - i);
    sum = MulAdd(v, v, sum);
  }
  const V16 scale = Set(1.0f / std::sqrt(SumLanes(sum) / static_cast<float>(n) + eps));
  for (int i = 0; i < n; i += 16) {
    const V16 v = Mul(LoadFirst(x + i, n - i), scale);
    StoreFirst(Mul(v, LoadFirst(weight + i, n - i)), n - i, y + i);
  }
}

void SwiGluRowTarget(const float* gate, const float* up, int n, float* y) {
  for (int i = 0; i < n; i += 16) {
    const V16 v = Mul(Silu(LoadFirst(gate + i, n - i)), LoadFirst(up + i, n - i));
    StoreFirst(v, n - i, y + i);
  }
}

void SigmoidGateRow(const float* gate, int n, float* y) {
  for (int i = 0; i < n; i += 16) {
    StoreFirst(Mul(LoadFirst(y + i, n - i), Sigmoid(LoadFirst(gate + i, n - i))), n - i, y + i);
  }
}

// erf in float32 to two units in the last place: x times a polynomial in x^2 near zero, else
// 1 - exp(polynomial), which is exactly 1 from 4 on. Both are minimax fits, by reweighted least
// squares, of erf(x) / x and log(erfc(x)).
HWY_INLINE V16 Erf(const V16& x) {
  constexpr float kNear[] = {-0.00058622094f, 0.004967539f, -0.026748894f,
                             0.11281322f,     -0.37612447f, 1.1283791f};
  constexpr float kFar[] = {0.00019466244f, -0.0030306834f, 0.02217683f,    -0.1038274f,
                            -0.6373013f,    -1.1276047f,    -0.00021290142f};
  const V16 zero = Zero(), one = Set(1.0f), x2 = Mul(x, x);
  // The fit ends at 4.2 and bends upwards beyond 6.
  const V16 magnitude = Min(Max(x, Sub(zero, x)), Set(6.0f));
  V16 p = Set(kNear[0]), q = Set(kFar[0]);
  for (int i = 1; i < 6; ++i) p = MulAdd(p, x2, Set(kNear[i]));
  for (int i = 1; i < 7; ++i) q = MulAdd(q, magnitude, Set(kFar[i]));
  const V16 far = Sub(one, Exp(q));
  return IfGreater(magnitude, Set(0.95f), IfGreater(zero, x, Sub(zero, far), far), Mul(x, p));
}

void GeluRow(float* x, int n) {
  for (int i = 0; i < n; i += 16) {
    const V16 v = LoadFirst(x + i, n - i);
    const V16 erf = Erf(Mul(v, Set(0.70710678118654752f)));
    StoreFirst(Mul(Mul(v, Set(0.5f)), Add(Set(1.0f), erf)), n - i, x + i);
  }
}

bool AllFiniteTarget(const float* x, size_t n) {
  // 0 * x is 0 for finite x and NaN otherwise; the sum keeps a NaN.
  V16 sum = Zero();
  for (size_t i = 0; i < n; i += 16) {
    const int lanes = n - i < 16 ? static_cast<int>(n - i) : 16;
    sum = MulAdd(LoadFirst(x + i, lanes), Zero(), sum);
  }
  return SumLanes(sum) == 0.0f;
}

}  // namespace HWY_NAMESPACE
}  // namespace packrat
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace packrat {

HWY_EXPORT(RmsNormRowTarget);
HWY_EXPORT(SwiGluRowTarget);
HWY_EXPORT(SigmoidGateRow);
HWY_EXPORT(GeluRow);
HWY_EXPORT(AllFiniteTarget);

namespace {

// With fewer values a parallel region costs more than it saves.
constexpr int64_t kParallelFrom = 1 << 14;

template <class RowOp>
void ForRows(int rows, int n, KernelContext* context, const RowOp& op) {
  if (int64_t{rows} * n < kParallelFrom) {
    for (int r = 0; r < rows; ++r) op(r);
    return;
  }
  constexpr int kRows = 8;  // Per task.
  context->pool.Run((rows + kRows - 1) / kRows, [&](int64_t task, int) {
    for (int64_t r = task * kRows; r < rows && r < (task + 1) * kRows; ++r) op(r);
  });
}

float* AsFloats(void* p, DType type) {
  PACKRAT_CHECK(type == DType::kF32);
  return static_cast<float*>(p);
}

}  // namespace

void RmsNormRow(const float* x, int n, const float* weight, float eps, float* y) {
  HWY_DYNAMIC_DISPATCH(RmsNormRowTarget)(x, n, weight, eps, y);
}

void SwiGluRow(const float* gate_up, int n, float* y) {
  HWY_DYNAMIC_DISPATCH(SwiGluRowTarget)(gate_up, gate_up + n, n, y);
}

absl::Status RmsNorm(const float* x, int rows, int n, const float* weight, float eps, void* y,
                     DType type, KernelContext* context) {
  auto* out = AsFloats(y, type);
  ForRows(rows, n, context, [&](int64_t r) { RmsNormRow(x + r * n, n, weight, eps, out + r * n); });
  return absl::OkStatus();
}

absl::Status RmsNormRows(const float* x, const int32_t* indices, int rows, int n,
                         const float* weight, float eps, void* y, DType type,
                         KernelContext* context) {
  auto* out = AsFloats(y, type);
  ForRows(rows, n, context, [&](int64_t r) {
    if (indices[r] < 0) {
      std::fill_n(out + r * n, n, 0.0f);
    } else {
      RmsNormRow(x + static_cast<int64_t>(indices[r]) * n, n, weight, eps, out + r * n);
    }
  });
  return absl::OkStatus();
}

absl::Status RmsNormHeads(void* x, int stride, int rows, int heads, int head_dim,
                          const float* weight, float eps, DType type, KernelContext* context) {
  auto* values = AsFloats(x, type);
  ForRows(rows * heads, head_dim, context, [&](int64_t i) {
    float* head = values + i / heads * stride + i % heads * head_dim;
    RmsNormRow(head, head_dim, weight, eps, head);
  });
  return absl::OkStatus();
}

absl::Status SwiGlu(const void* gate_up, int rows, int n, void* y, DType type,
                    KernelContext* context) {
  const auto* gate = static_cast<const float*>(gate_up);
  auto* out = AsFloats(y, type);
  ForRows(rows, n, context, [&](int64_t r) { SwiGluRow(gate + 2 * r * n, n, out + r * n); });
  return absl::OkStatus();
}

absl::Status SigmoidGate(const void* gate, int stride, int rows, int n, void* y, DType type,
                         KernelContext* context) {
  auto* out = AsFloats(y, type);
  ForRows(rows, n, context, [&](int64_t r) {
    HWY_DYNAMIC_DISPATCH(SigmoidGateRow)
    (static_cast<const float*>(gate) + r * stride, n, out + r * n);
  });
  return absl::OkStatus();
}

absl::Status Gelu(void* x, int rows, int n, DType type, KernelContext* context) {
  auto* values = AsFloats(x, type);
  ForRows(rows, n, context, [&](int64_t r) { HWY_DYNAMIC_DISPATCH(GeluRow)(values + r * n, n); });
  return absl::OkStatus();
}

absl::Status CheckFinite(const BatchView& batch, const float* x, int n, SpanTotals* totals,
                         KernelContext*) {
  for (int i = 0; i < batch.num_spans; ++i) {
    const BatchSpan& span = batch.spans[i];
    const auto width = static_cast<size_t>(n);
    if (span.num_tokens > 0 && !AllFinite(x + span.first_token * width, span.num_tokens * width)) {
      totals[i].not_finite = 1;
    }
  }
  return absl::OkStatus();
}

bool AllFinite(const float* x, size_t n) { return HWY_DYNAMIC_DISPATCH(AllFiniteTarget)(x, n); }

}  // namespace packrat
#endif  // HWY_ONCE
