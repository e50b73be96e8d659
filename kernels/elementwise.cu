#include "kernels/device.cuh"
#include "kernels/elementwise.h"

namespace packrat::gpu {
namespace {

constexpr int kThreads = 256;

// A block for each row.
template <class T>
__global__ void RmsNormKernel(const float* x, int n, const float* weight, float eps, T* y) {
  auto* scratch = reinterpret_cast<float*>(SharedMemory());
  x += static_cast<size_t>(blockIdx.x) * n;
  y += static_cast<size_t>(blockIdx.x) * n;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < n; i += kThreads) sum = fmaf(x[i], x[i], sum);
  const float scale = rsqrtf(BlockSum(sum, scratch) / n + eps);
  for (int i = threadIdx.x; i < n; i += kThreads) y[i] = FromFloat<T>(x[i] * scale * weight[i]);
}

}  // namespace

absl::Status RmsNorm(const float* x, int rows, int n, const float* weight, float eps, void* y,
                     DType type, CudaStream stream) {
  const size_t shared = kThreads / kWarp * sizeof(float);
  if (type == DType::kF32) {
    return Launch("RmsNorm", RmsNormKernel<float>, dim3(rows), kThreads, shared, stream, x, n,
                  weight, eps, static_cast<float*>(y));
  }
  return Launch("RmsNorm", RmsNormKernel<BFloat16>, dim3(rows), kThreads, shared, stream, x, n,
                weight, eps, static_cast<BFloat16*>(y));
}

}  // namespace packrat::gpu
