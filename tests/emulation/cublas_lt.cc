// See cublasLt.h.
#include <cstring>

#include "kernels/cublas_lt.h"
#include "tests/emulation/cublasLt.h"
#include "tests/emulation/cuda_bf16.h"
#include "tests/emulation/emulation.h"
#include "tests/emulation/races.h"

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque_t {
  cublasOperation_t transpose_a = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;  // Of D's type, as in the library if nothing else is asked for.
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType type;
  uint64_t rows, cols;
  int64_t ld;
};
struct cublasLtMatmulPreferenceOpaque_t {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};  // Of A, B, C and D.
};

// What kernels/cublas_lt.cc opens elsewhere is linked here.
absl::Status packrat::gpu::OpenCublasLt() { return absl::OkStatus(); }

namespace emulation {

CublasLt cublas_lt;

namespace {

// What an algorithm of GetHeuristic() asks for, kept in its opaque words.
struct Algorithm {
  uint64_t magic = 0x5041434b52415431u, workspace = 0;
  uint32_t alignment[4] = {};
  // The inner sizes must be those that it was asked for; the number of columns may differ.
  uint64_t out = 0, in = 0;
  uint64_t proposal = 0, reserved = 0;
};
static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t));

template <class T, class... A>
cublasStatus_t New(T** object, A... values) {
  *object = new T{values...};
  ++cublas_lt.objects;
  return CUBLAS_STATUS_SUCCESS;
}
template <class T>
cublasStatus_t Delete(T* object) {
  if (object != nullptr) --cublas_lt.objects;
  delete object;
  return CUBLAS_STATUS_SUCCESS;
}
template <class T>
cublasStatus_t Set(T* field, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

// One product as its descriptors say: column-major, D = alpha op(A) B + beta C + bias.
struct Product {
  cublasLtMatmulDescOpaque_t desc;
  cublasLtMatrixLayoutOpaque_t a, b, c, d;

  uint64_t inner() const { return desc.transpose_a == CUBLAS_OP_T ? a.rows : a.cols; }
  uint64_t outer() const { return desc.transpose_a == CUBLAS_OP_T ? a.cols : a.rows; }
  bool Fits() const {
    const auto dense = [](const cublasLtMatrixLayoutOpaque_t& m) {
      return m.ld >= static_cast<int64_t>(m.rows) && m.rows > 0 && m.cols > 0;
    };
    return dense(a) && dense(b) && dense(c) && dense(d) && b.rows == inner() && d.rows == outer() &&
           d.cols == b.cols && c.rows == d.rows && c.cols == d.cols;
  }
  // As in the library's table for CUBLAS_COMPUTE_32F.
  bool Supported() const {
    return a.type == b.type && c.type == d.type && (d.type == CUDA_R_32F || d.type == a.type);
  }
};

float Load(const void* data, const cublasLtMatrixLayoutOpaque_t& layout, uint64_t row,
           uint64_t col) {
  const uint64_t at = col * layout.ld + row;
  if (layout.type == CUDA_R_32F) return static_cast<const float*>(data)[at];
  return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at]);
}

void Compute(const Product& p, float alpha, const void* a, const void* b, float beta, const void* c,
             void* d) {
  for (uint64_t col = 0; col < p.d.cols; ++col) {
    for (uint64_t row = 0; row < p.d.rows; ++row) {
      float sum = 0.0f;
      for (uint64_t k = 0; k < p.inner(); ++k) {
        const float left =
            p.desc.transpose_a == CUBLAS_OP_T ? Load(a, p.a, k, row) : Load(a, p.a, row, k);
        sum = std::fma(left, Load(b, p.b, k, col), sum);
      }
      sum *= alpha;
      if (beta != 0.0f) sum = std::fma(beta, Load(c, p.c, row, col), sum);
      if (p.desc.epilogue == CUBLASLT_EPILOGUE_BIAS) sum += Load(p.desc.bias, p.d, row, 0);
      const uint64_t at = col * p.d.ld + row;
      if (p.d.type == CUDA_R_32F) {
        static_cast<float*>(d)[at] = sum;
      } else {
        static_cast<__nv_bfloat16*>(d)[at] = __float2bfloat16(sum);
      }
    }
  }
}

}  // namespace
}  // namespace emulation

using emulation::cublas_lt;

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "unknown";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (cublas_lt.create != CUBLAS_STATUS_SUCCESS) return cublas_lt.create;
  return emulation::New(handle);
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return emulation::Delete(handle); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_INVALID_VALUE;
  return emulation::New(desc);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  return emulation::Delete(desc);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return emulation::Set(&desc->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return emulation::Set(&desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return emulation::Set(&desc->bias, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  return emulation::New(layout, type, rows, cols, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return emulation::Delete(layout);
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t bytes) {
  if (attribute != CUBLASLT_MATRIX_LAYOUT_COLS) return CUBLAS_STATUS_INVALID_VALUE;
  return emulation::Set(&layout->cols, value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return emulation::New(preference);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return emulation::Delete(preference);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
    return emulation::Set(&preference->workspace, value, bytes);
  }
  if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) {
    uint32_t ignored;  // Sums are one float32 chain here.
    return emulation::Set(&ignored, value, bytes);
  }
  return emulation::Set(
      &preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t* results,
                                              int* found) {
  ++cublas_lt.heuristics;
  *found = 0;
  const emulation::Product product{*desc, *a, *b, *c, *d};
  if (cublas_lt.heuristic != CUBLAS_STATUS_SUCCESS) return cublas_lt.heuristic;
  if (requested < 1 || !product.Fits()) return CUBLAS_STATUS_INVALID_VALUE;
  if (!product.Supported()) return CUBLAS_STATUS_NOT_SUPPORTED;
  emulation::Algorithm algorithm;
  algorithm.workspace = preference->workspace;
  for (int i = 0; i < 4; ++i) algorithm.alignment[i] = preference->alignment[i];
  algorithm.out = product.outer();
  algorithm.in = product.inner();
  for (; *found < requested && *found < static_cast<int>(cublas_lt.proposals.size()); ++*found) {
    algorithm.proposal = *found;
    results[*found] = cublasLtMatmulHeuristicResult_t();
    results[*found].workspaceSize = preference->workspace;
    std::memcpy(&results[*found].algo, &algorithm, sizeof algorithm);
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  ++cublas_lt.products;
  if (cublas_lt.matmul != CUBLAS_STATUS_SUCCESS) return cublas_lt.matmul;
  const emulation::Product product{*desc, *a_layout, *b_layout, *c_layout, *d_layout};
  if (!product.Fits()) return CUBLAS_STATUS_INVALID_VALUE;
  if (!product.Supported()) return CUBLAS_STATUS_NOT_SUPPORTED;
  emulation::Algorithm algorithm;
  if (algo == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(static_cast<void*>(&algorithm), algo, sizeof algorithm);
  const void* operands[] = {a, b, c, d};
  bool suits = algorithm.magic == emulation::Algorithm().magic &&
               algorithm.out == product.outer() && algorithm.in == product.inner() &&
               algorithm.workspace <= workspace_bytes &&
               (workspace != nullptr || algorithm.workspace == 0) &&
               (desc->epilogue == CUBLASLT_EPILOGUE_DEFAULT || desc->bias != nullptr);
  for (int i = 0; i < 4; ++i) {
    suits &= reinterpret_cast<uintptr_t>(operands[i]) % algorithm.alignment[i] == 0;
  }
  if (!suits) return CUBLAS_STATUS_INVALID_VALUE;
  const emulation::CublasLt::Proposal& proposal = cublas_lt.proposals.at(algorithm.proposal);
  if (proposal.status != CUBLAS_STATUS_SUCCESS) return proposal.status;
  if (product.d.cols < proposal.least_columns) return proposal.of_fewer;
  cublas_lt.last_proposal = static_cast<int>(algorithm.proposal);
  const double milliseconds = proposal.milliseconds;
  float alpha_value, beta_value;
  std::memcpy(&alpha_value, alpha, sizeof alpha_value);
  std::memcpy(&beta_value, beta, sizeof beta_value);
  const auto run = [=] {
    // Nothing of the workspace is kept from one product to the next.
    std::memset(workspace, 0xFF, std::min<size_t>(workspace_bytes, 4096));
    emulation::Compute(product, alpha_value, a, b, beta_value, c, d);
    const size_t value_bytes = product.d.type == CUDA_R_32F ? 4 : 2;
    emulation::RaceWrites(d, product.d.ld * product.d.cols * value_bytes);
    emulation::milliseconds += milliseconds;
  };
  const cudaError_t error = emulation::Enqueue(stream, run, emulation::WorkKind::kKernel);
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
