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

template <class Put>
HWY_INLINE void NormRow(const float* x, int n, const float* weight, float eps, const Put& put) {
  V16 sum = Zero();
  for (int i = 0; i < n; i += 16) {
    const V16 v = LoadFirst(x + i, n - i);
    sum = MulAdd(v, v, sum);
  }
  const V16 scale = Set(1.0f / std::sqrt(SumLanes(sum) / static_cast<float>(n) + eps));
  for (int i = 0; i < n; i += 16) {
    const V16 v = Mul(LoadFirst(x + i, n - i), scale);
    put(Mul(v, LoadFirst(weight + i, n - i)), i);
  }
}

void RmsNormRowTarget(const float* x, int n, const float* weight, float eps, float* y) {
  NormRow(x, n, weight, eps, [=](const V16& v, int i) { StoreFirst(v, n - i, y + i); });
}

void AddRmsNormRow(const float* y, int n, const float* weight, float eps, float* x) {
  NormRow(y, n, weight, eps,
          [=](const V16& v, int i) { StoreFirst(Add(LoadFirst(x + i, n - i), v), n - i, x + i); });
}

template <class Function>
HWY_INLINE void GateRow(const float* gate, const float* up, int n, float scale,
                        const Function& function, float* y) {
  for (int i = 0; i < n; i += 16) {
    const V16 g = Mul(LoadFirst(gate + i, n - i), Set(scale));
    StoreFirst(Mul(function(g), LoadFirst(up + i, n - i)), n - i, y + i);
  }
}

void GluRowTarget(const Gating& gating, const float* gate, const float* up, int n, float* y) {
  switch (gating.function) {
    case GateFunction::kSilu:
      return GateRow(
          gate, up, n, gating.scale, [](const V16& g) { return Silu(g); }, y);
    case GateFunction::kGeluTanh:
      return GateRow(
          gate, up, n, gating.scale, [](const V16& g) { return GeluTanh(g); }, y);
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

void SquaredReluRow(float* x, int n) {
  for (int i = 0; i < n; i += 16) {
    const V16 v = LoadFirst(x + i, n - i);
    // Not by Max(), which loses a NaN.
    StoreFirst(IfGreater(Zero(), v, Zero(), Mul(v, v)), n - i, x + i);
  }
}

// x times a polynomial in x^2 near zero (a minimax fit of (tanh(x) / x - 1) / x^2 by reweighted
// least squares, good to 1.3 * 2^-24 in float32), else 1 - 2 / (exp(2 |x|) + 1).
HWY_INLINE V16 Tanh(const V16& x) {
  constexpr float kNear[] = {-0.0057049235f, 0.020639032f, -0.0537397f, 0.13331442f, -0.3333328f};
  const V16 zero = Zero(), one = Set(1.0f), x2 = Mul(x, x);
  const V16 magnitude = IfGreater(zero, x, Sub(zero, x), x);
  V16 p = Set(kNear[0]);
  for (int i = 1; i < 5; ++i) p = MulAdd(p, x2, Set(kNear[i]));
  const V16 near = MulAdd(Mul(x, x2), p, x);
  // The sigmoid knows where exp ends.
  const V16 far = Sub(one, Mul(Set(2.0f), Sigmoid(Mul(Set(-2.0f), magnitude))));
  return IfGreater(Set(0.625f), magnitude, near, IfGreater(zero, x, Sub(zero, far), far));
}

void SoftCapRow(float cap, int n, float* x) {
  for (int i = 0; i < n; i += 16) {
    StoreFirst(Mul(Set(cap), Tanh(Div(LoadFirst(x + i, n - i), Set(cap)))), n - i, x + i);
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
HWY_EXPORT(AddRmsNormRow);
HWY_EXPORT(GluRowTarget);
HWY_EXPORT(SigmoidGateRow);
HWY_EXPORT(GeluRow);
HWY_EXPORT(SquaredReluRow);
HWY_EXPORT(SoftCapRow);
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

void GluRow(const Gating& gating, const float* gate_up, int n, float* y) {
  HWY_DYNAMIC_DISPATCH(GluRowTarget)(gating, gate_up, gate_up + n, n, y);
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

absl::Status AddRmsNorm(const float* y, int rows, int n, const float* weight, float eps, float* x,
                        KernelContext* context) {
  ForRows(rows, n, context, [&](int64_t r) {
    HWY_DYNAMIC_DISPATCH(AddRmsNormRow)(y + r * n, n, weight, eps, x + r * n);
  });
  return absl::OkStatus();
}

absl::Status Convert(const float* x, int rows, int n, void* y, DType type, KernelContext* context) {
  auto* out = AsFloats(y, type);
  ForRows(rows, n, context, [&](int64_t r) { std::copy_n(x + r * n, n, out + r * n); });
  return absl::OkStatus();
}

absl::Status Glu(const Gating& gating, const void* gate_up, int rows, int n, void* y, DType type,
                 KernelContext* context) {
  const auto* in = static_cast<const float*>(gate_up);
  auto* out = AsFloats(y, type);
  ForRows(rows, n, context, [&](int64_t r) { GluRow(gating, in + 2 * r * n, n, out + r * n); });
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

absl::Status SquaredRelu(void* x, int rows, int n, DType type, KernelContext* context) {
  auto* values = AsFloats(x, type);
  ForRows(rows, n, context, [&](int64_t r) {
    HWY_DYNAMIC_DISPATCH(SquaredReluRow)(values + r * n, n);
  });
  return absl::OkStatus();
}

absl::Status SoftCap(float cap, int rows, int n, float* x, KernelContext* context) {
  ForRows(rows, n, context, [&](int64_t r) {
    HWY_DYNAMIC_DISPATCH(SoftCapRow)(cap, n, x + r * n);
  });
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
