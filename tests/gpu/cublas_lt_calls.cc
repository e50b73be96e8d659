// Opens cuBLASLt and calls each function once; for cublas_lt_test.sh, with libraries that say which
// of them was called.
#include <cublasLt.h>

#include <cstdio>

#include "kernels/cublas_lt.h"

int main() {
  const absl::Status status = packrat::gpu::OpenCublasLt();
  if (!status.ok()) {
    std::printf("%s\n", status.ToString().c_str());
    return 1;
  }
  std::printf("%s\n", cublasLtGetStatusName(CUBLAS_STATUS_SUCCESS));
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t layout = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  int sum = 0;
  sum += cublasLtCreate(&handle);
  sum += cublasLtDestroy(handle);
  sum += cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  sum += cublasLtMatmulDescDestroy(product);
  sum += cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, nullptr, 0);
  sum += cublasLtMatrixLayoutCreate(&layout, CUDA_R_32F, 1, 1, 1);
  sum += cublasLtMatrixLayoutDestroy(layout);
  sum += cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_COLS, nullptr, 0);
  sum += cublasLtMatmulPreferenceCreate(&preference);
  sum += cublasLtMatmulPreferenceDestroy(preference);
  sum += cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                              nullptr, 0);
  sum += cublasLtMatmulAlgoGetHeuristic(handle, product, layout, layout, layout, layout, preference,
                                        0, nullptr, nullptr);
  sum += cublasLtMatmul(handle, product, nullptr, nullptr, layout, nullptr, layout, nullptr,
                        nullptr, layout, nullptr, layout, nullptr, nullptr, 0, nullptr);
  return sum;
}
