// A library in cuBLASLt's place: each function says its name, and one the file that it is in.
#include <dlfcn.h>

#include <cstdio>

extern "C" {

const char* cublasLtGetStatusName(int) {
  Dl_info info = {};
  dladdr(reinterpret_cast<void*>(&cublasLtGetStatusName), &info);
  return info.dli_fname;
}

#define PACKRAT_SAYS(name) \
  int name() {             \
    std::puts(#name);      \
    return 0;              \
  }
PACKRAT_SAYS(cublasLtCreate)
PACKRAT_SAYS(cublasLtDestroy)
PACKRAT_SAYS(cublasLtMatmulDescCreate)
PACKRAT_SAYS(cublasLtMatmulDescDestroy)
PACKRAT_SAYS(cublasLtMatmulDescSetAttribute)
PACKRAT_SAYS(cublasLtMatrixLayoutCreate)
PACKRAT_SAYS(cublasLtMatrixLayoutDestroy)
PACKRAT_SAYS(cublasLtMatrixLayoutSetAttribute)
PACKRAT_SAYS(cublasLtMatmulPreferenceCreate)
PACKRAT_SAYS(cublasLtMatmulPreferenceDestroy)
PACKRAT_SAYS(cublasLtMatmulPreferenceSetAttribute)
PACKRAT_SAYS(cublasLtMatmulAlgoGetHeuristic)
PACKRAT_SAYS(cublasLtMatmul)

}  // extern "C"
