// cuBLASLt's products of one shape: described once, and the quickest of the library's proposals
// kept.
#ifndef PACKRAT_KERNELS_MATMUL_PLAN_CUH_
#define PACKRAT_KERNELS_MATMUL_PLAN_CUH_

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/matmul.h"

namespace packrat::gpu {

// OK, or INTERNAL with the library's name of the error.
absl::Status LibraryStatus(cublasStatus_t status, const char* what);

// The library's objects, destroyed with their owner.
template <auto kDestroy>
struct Destroy {
  template <class T>
  void operator()(T* object) const {
    kDestroy(object);
  }
};
template <class Handle, auto kDestroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<kDestroy>>;

// The library, and what all plans share: products run on one stream.
class MatMulLibrary {
 public:
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // What it asks for on Hopper.

  // UNAVAILABLE without the library, INTERNAL without memory for the workspace.
  static absl::StatusOr<std::unique_ptr<MatMulLibrary>> Create();
  ~MatMulLibrary();

  cublasLtHandle_t handle() const { return handle_.get(); }
  void* workspace() const { return workspace_; }
  size_t cache_bytes() const { return cache_bytes_; }  // Of the device's second-level cache.

 private:
  Owned<cublasLtHandle_t, cublasLtDestroy> handle_;
  void* workspace_ = nullptr;
  size_t cache_bytes_ = 0;
};

// Row-major as the library, which is column-major, sees it: y' (out, rows) = op(W') x', W' (in,
// out) transposed, x' (in, rows).
class MatMulPlan {
 public:
  static constexpr uint32_t kAlignment = 16;  // Of all operands, promised to the library.

  // For products like `m` of up to `bucket` rows; the library proposes algorithms for that many.
  // Not null: the library does not do this product if the plan is not supported().
  static absl::StatusOr<std::unique_ptr<MatMulPlan>> Create(const MatMulLibrary* library,
                                                            const MatMulArguments& m, int bucket);

  bool supported() const { return !proposals_.empty(); }

  // The first call tunes: it runs every proposal a few times and waits for them. It must not be
  // captured (NOT_INITIALIZED). Where the device lacks the memory to try, the first proposal
  // serves.
  cublasStatus_t Run(const MatMulArguments& m, CudaStream stream);

 private:
  cublasStatus_t Describe(const MatMulArguments& m, int bucket);
  cublasStatus_t SetBias(const float* bias);
  cublasStatus_t SetRows(int rows);
  cublasStatus_t Propose();
  void Tune(const MatMulArguments& m, CudaStream stream);
  cublasStatus_t Multiply(const cublasLtMatmulAlgo_t& algorithm, const MatMulArguments& m,
                          void* result, CudaStream stream);

  const MatMulLibrary* library_ = nullptr;
  Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> desc_;
  Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy> weight_, x_, y_;
  std::vector<cublasLtMatmulAlgo_t> proposals_;  // Once tuned, one.
  bool has_run_ = false;
};

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_MATMUL_PLAN_CUH_
