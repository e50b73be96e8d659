// The functions of cublasLt.h that this project calls, each of which hands its call on to the
// library that was opened.
#include "kernels/cublas_lt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <string>
#include <type_traits>

namespace packrat::gpu {
namespace {

#define PACKRAT_FOR_EACH_FUNCTION(X)      \
  X(cublasLtGetStatusName)                \
  X(cublasLtCreate)                       \
  X(cublasLtDestroy)                      \
  X(cublasLtMatmulDescCreate)             \
  X(cublasLtMatmulDescDestroy)            \
  X(cublasLtMatmulDescSetAttribute)       \
  X(cublasLtMatrixLayoutCreate)           \
  X(cublasLtMatrixLayoutDestroy)          \
  X(cublasLtMatrixLayoutSetAttribute)     \
  X(cublasLtMatmulPreferenceCreate)       \
  X(cublasLtMatmulPreferenceDestroy)      \
  X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtMatmulAlgoGetHeuristic)       \
  X(cublasLtMatmul)

struct Functions {
// NOLINTNEXTLINE(bugprone-macro-parentheses): what is declared has none.
#define PACKRAT_DECLARE(name) decltype(&::name) name = nullptr;
  PACKRAT_FOR_EACH_FUNCTION(PACKRAT_DECLARE)
#undef PACKRAT_DECLARE
};
Functions functions;

// Empty, or why the library of that name does not serve.
std::string Open(const char* name) {
  // It stays open: what it made may live as long as the process.
  void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return dlerror();
  Functions found;
  const auto find = [&](const char* function, auto* pointer) {
    *pointer = reinterpret_cast<std::remove_pointer_t<decltype(pointer)>>(dlsym(library, function));
    return *pointer != nullptr;
  };
#define PACKRAT_FIND(function)                       \
  if (!find(#function, &found.function)) {           \
    return std::string(name) + " has no " #function; \
  }
  PACKRAT_FOR_EACH_FUNCTION(PACKRAT_FIND)
#undef PACKRAT_FIND
  functions = found;
  return "";
}

}  // namespace

absl::Status OpenCublasLt() {
  static const absl::Status status = [] {
    std::string faults;
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
      const std::string fault = Open(name);
      if (fault.empty()) return absl::OkStatus();
      faults += (faults.empty() ? "" : "; ") + fault;
    }
    return absl::UnavailableError("no cuBLASLt of CUDA 13 or 12: " + faults);
  }();
  return status;
}

}  // namespace packrat::gpu

using packrat::gpu::functions;

const char* cublasLtGetStatusName(cublasStatus_t status) {
  return functions.cublasLtGetStatusName(status);
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return functions.cublasLtCreate(handle); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return functions.cublasLtDestroy(handle);
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType scale) {
  return functions.cublasLtMatmulDescCreate(desc, compute, scale);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  return functions.cublasLtMatmulDescDestroy(desc);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  return functions.cublasLtMatmulDescSetAttribute(desc, attribute, value, bytes);
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  return functions.cublasLtMatrixLayoutCreate(layout, type, rows, cols, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return functions.cublasLtMatrixLayoutDestroy(layout);
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t bytes) {
  return functions.cublasLtMatrixLayoutSetAttribute(layout, attribute, value, bytes);
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return functions.cublasLtMatmulPreferenceCreate(preference);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return functions.cublasLtMatmulPreferenceDestroy(preference);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  return functions.cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, bytes);
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t* results,
                                              int* found) {
  return functions.cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, c, d, preference, requested,
                                                  results, found);
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  return functions.cublasLtMatmul(handle, desc, alpha, a, a_layout, b, b_layout, beta, c, c_layout,
                                  d, d_layout, algo, workspace, workspace_bytes, stream);
}
