#include "kernels/elementwise.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise.cc"
// Keep after the define.
#include "hwy/foreach_target.h"
// Keep after foreach_target.h.
#include "kernels/vec16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace packrat {
namespace HWY_NAMESPACE {

void RmsNormRow(const float* x, int n, const float* weight, float eps, float* y) {
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

void SwiGluRow(float* gate, const float* up, int n) {
  for (int i = 0; i < n; i += 16) {
    const V16 v = Mul(Silu(LoadFirst(gate + i, n - i)), LoadFirst(up + i, n - i));
    StoreFirst(v, n - i, gate + i);
  }
}

// erf in float32 to about two units in the last place: x times a polynomial in x^2 divided by
// another on |x| < 4, beyond which erf is 1 in float32. Coefficients: the rational minimax fit used
// by Eigen and XLA.
HWY_INLINE V16 Erf(const V16& argument) {
  const V16 x = Max(Min(argument, Set(4.0f)), Set(-4.0f));
  const V16 x2 = Mul(x, x);
  constexpr float kNumerator[] = {-2.72614225801306e-10f, 2.77068142495902e-08f,
                                  -2.10102402082508e-06f, -5.69250639462346e-05f,
                                  -7.34990630326855e-04f, -2.95459980854025e-03f,
                                  -1.60960333262415e-02f};
  constexpr float kDenominator[] = {-1.45660718464996e-05f, -2.13374055278905e-04f,
                                    -1.68282697438203e-03f, -7.37332916720468e-03f,
                                    -1.42647390514189e-02f};
  V16 p = Set(kNumerator[0]), q = Set(kDenominator[0]);
  for (int i = 1; i < 7; ++i) p = MulAdd(p, x2, Set(kNumerator[i]));
  for (int i = 1; i < 5; ++i) q = MulAdd(q, x2, Set(kDenominator[i]));
  return Div(Mul(x, p), q);
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

HWY_EXPORT(RmsNormRow);
HWY_EXPORT(SwiGluRow);
HWY_EXPORT(GeluRow);
HWY_EXPORT(AllFiniteTarget);

namespace {

// Below this many values a parallel region costs more than it saves.
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

}  // namespace

void RmsNorm(const float* x, int rows, int n, const float* weight, float eps, float* y,
             KernelContext* context) {
  ForRows(rows, n, context, [&](int64_t r) {
    HWY_DYNAMIC_DISPATCH(RmsNormRow)(x + r * n, n, weight, eps, y + r * n);
  });
}

void SwiGlu(float* gate, const float* up, int rows, int n, KernelContext* context) {
  ForRows(rows, n, context,
          [&](int64_t r) { HWY_DYNAMIC_DISPATCH(SwiGluRow)(gate + r * n, up + r * n, n); });
}

void Gelu(float* x, int rows, int n, KernelContext* context) {
  ForRows(rows, n, context, [&](int64_t r) { HWY_DYNAMIC_DISPATCH(GeluRow)(x + r * n, n); });
}

bool AllFinite(const float* x, size_t n) { return HWY_DYNAMIC_DISPATCH(AllFiniteTarget)(x, n); }

}  // namespace packrat
#endif  // HWY_ONCE
