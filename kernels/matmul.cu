// Products by cuBLASLt, and the choice between it and our own kernels.
#include "kernels/matmul.h"

#include <cublasLt.h>

#include <map>
#include <tuple>
#include <type_traits>
#include <utility>

#include "kernels/check.h"
#include "kernels/device.cuh"
#include "kernels/matmul_own.h"

namespace packrat::gpu {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // What the library asks for on Hopper.
constexpr uint32_t kAlignment = 16;                   // Of all operands, promised to the library.

absl::Status LibraryStatus(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  char text[160];
  std::snprintf(text, sizeof text, "%s: %s", what, cublasLtGetStatusName(status));
  return absl::InternalError(text);
}

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
using OwnedHandle = Owned<cublasLtHandle_t, cublasLtDestroy>;
using OwnedDesc = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using OwnedLayout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using OwnedPreference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

cudaDataType LibraryType(DType type) { return type == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF; }

// Row counts for which the library is asked for one algorithm: steps of an eighth to a half of the
// number, so that prompts of many lengths share a few.
int RowBucket(int rows) {
  int step = 8;
  while (step * 8 < rows) step *= 2;
  return (rows + step - 1) / step * step;
}

// A product's descriptors and the algorithm chosen for it. Row-major as the library, which is
// column-major, sees it: y' (out, rows) = op(W') x', W' (in, out) transposed, x' (in, rows).
class Plan {
 public:
  // Not null: the library does not do this product if the plan is not supported().
  static absl::StatusOr<std::unique_ptr<Plan>> Create(cublasLtHandle_t handle,
                                                      const MatMulArguments& m, int bucket) {
    auto plan = std::make_unique<Plan>();
    cublasStatus_t status = plan->Describe(m, bucket);
    if (status == CUBLAS_STATUS_SUCCESS) status = plan->Choose(handle);
    if (status != CUBLAS_STATUS_SUCCESS) return LibraryStatus(status, "planning a product");
    return plan;
  }

  bool supported() const { return supported_; }

  cublasStatus_t Run(cublasLtHandle_t handle, const MatMulArguments& m, void* workspace,
                     CudaStream stream) {
    const auto rows = static_cast<uint64_t>(m.rows);
    const float alpha = 1.0f, beta = m.accumulate ? 1.0f : 0.0f;
    cublasStatus_t status = SetBias(m.bias);
    for (const OwnedLayout* layout : {&x_, &y_}) {
      if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatrixLayoutSetAttribute(layout->get(), CUBLASLT_MATRIX_LAYOUT_COLS, &rows,
                                                  sizeof rows);
      }
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmul(handle, desc_.get(), &alpha, m.weight->data, weight_.get(), m.x,
                              x_.get(), &beta, m.y, y_.get(), m.y, y_.get(), &algorithm_, workspace,
                              kWorkspaceBytes, stream);
    }
    return status;
  }

 private:
  cublasStatus_t Describe(const MatMulArguments& m, int bucket) {
    const auto out = static_cast<uint64_t>(m.weight->out), in = static_cast<uint64_t>(m.weight->in);
    const auto type = LibraryType(m.weight->type);
    const auto layout = [](OwnedLayout* owned, cudaDataType t, uint64_t rows, uint64_t cols) {
      cublasLtMatrixLayout_t made = nullptr;
      const cublasStatus_t status =
          cublasLtMatrixLayoutCreate(&made, t, rows, cols, static_cast<int64_t>(rows));
      owned->reset(made);
      return status;
    };
    cublasLtMatmulDesc_t desc = nullptr;
    cublasStatus_t status = cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    desc_.reset(desc);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof transposed);
    }
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    if (status == CUBLAS_STATUS_SUCCESS && m.bias != nullptr) {
      status = cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                              sizeof epilogue);
    }
    if (status == CUBLAS_STATUS_SUCCESS) status = SetBias(m.bias);
    if (status == CUBLAS_STATUS_SUCCESS) status = layout(&weight_, type, in, out);
    if (status == CUBLAS_STATUS_SUCCESS) status = layout(&x_, type, in, bucket);
    if (status == CUBLAS_STATUS_SUCCESS) status = layout(&y_, LibraryType(m.y_type), out, bucket);
    return status;
  }

  cublasStatus_t SetBias(const float* bias) {
    if (bias == nullptr) return CUBLAS_STATUS_SUCCESS;
    return cublasLtMatmulDescSetAttribute(desc_.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                          sizeof bias);
  }

  // The first of the library's proposals; none is not an error.
  cublasStatus_t Choose(cublasLtHandle_t handle) {
    cublasLtMatmulPreference_t made = nullptr;
    cublasStatus_t status = cublasLtMatmulPreferenceCreate(&made);
    const OwnedPreference preference(made);
    const uint64_t workspace = kWorkspaceBytes;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                    &workspace, sizeof workspace);
    }
    // Partial sums stay float32.
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulPreferenceSetAttribute(
          made, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
    }
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      if (status != CUBLAS_STATUS_SUCCESS) break;
      status =
          cublasLtMatmulPreferenceSetAttribute(made, attribute, &kAlignment, sizeof kAlignment);
    }
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    status = cublasLtMatmulAlgoGetHeuristic(handle, desc_.get(), weight_.get(), x_.get(), y_.get(),
                                            y_.get(), made, 1, &result, &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return CUBLAS_STATUS_SUCCESS;
    supported_ = status == CUBLAS_STATUS_SUCCESS && found > 0 &&
                 result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kWorkspaceBytes;
    algorithm_ = result.algo;
    return status;
  }

  OwnedDesc desc_;
  OwnedLayout weight_, x_, y_;
  cublasLtMatmulAlgo_t algorithm_ = {};
  bool supported_ = false;
};

absl::Status MultiplyByOwn(const MatMulArguments& m, CudaStream stream) {
  return m.weight->type == DType::kBF16 ? MultiplyBf16(m, stream) : MultiplyF32(m, stream);
}

class OwnMatMul : public MatMul {
 public:
  absl::Status Run(const MatMulArguments& m, CudaStream stream) override {
    Check(m);
    return m.rows == 0 ? absl::OkStatus() : MultiplyByOwn(m, stream);
  }
  size_t workspace_bytes() const override { return 0; }

  static void Check(const MatMulArguments& m) {
    PACKRAT_CHECK(m.weight->type == DType::kF32 || m.weight->type == DType::kBF16);
    PACKRAT_CHECK(m.weight->in >= 1 && m.weight->out >= 1 && m.rows >= 0);
    PACKRAT_CHECK(m.y_type == DType::kF32 || m.y_type == m.weight->type);
    PACKRAT_CHECK(!m.accumulate || m.y_type == DType::kF32);
  }
};

class LibraryMatMul : public MatMul {
 public:
  explicit LibraryMatMul(OwnedHandle handle) : handle_(std::move(handle)) {}
  ~LibraryMatMul() override { cudaFree(workspace_); }

  absl::Status AllocateWorkspace() {
    return ToStatus(cudaMalloc(&workspace_, kWorkspaceBytes), "workspace of matrix products");
  }

  absl::Status Run(const MatMulArguments& m, CudaStream stream) override {
    OwnMatMul::Check(m);
    if (m.rows == 0) return absl::OkStatus();
    if (m.rows <= kFewRows) {
      return m.weight->type == DType::kBF16 ? MultiplyBf16(m, stream)
                                            : MultiplyFewRowsF32(m, stream);
    }
    // The library takes a bias for one of y's type, and has no product of another.
    if (!Aligned(m) || (m.bias != nullptr && m.y_type != DType::kF32)) {
      return MultiplyByOwn(m, stream);
    }
    const auto plan = FindPlan(m);
    if (!plan.ok()) return plan.status();
    if (!(*plan)->supported()) return MultiplyByOwn(m, stream);
    const cublasStatus_t status = (*plan)->Run(handle_.get(), m, workspace_, stream);
    // The algorithm was chosen for the bucket's number of rows, and may not like this one.
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
      return MultiplyByOwn(m, stream);
    }
    return LibraryStatus(status, "cublasLtMatmul");
  }
  size_t workspace_bytes() const override { return kWorkspaceBytes; }

 private:
  static bool Aligned(const MatMulArguments& m) {
    for (const void* p : {m.weight->data, m.x, const_cast<const void*>(m.y)}) {
      if (reinterpret_cast<uintptr_t>(p) % kAlignment != 0) return false;
    }
    return true;
  }

  absl::StatusOr<Plan*> FindPlan(const MatMulArguments& m) {
    const int bucket = RowBucket(m.rows);
    const Key key{m.weight->out, m.weight->in,      bucket,      m.weight->type,
                  m.y_type,      m.bias != nullptr, m.accumulate};
    const auto found = plans_.find(key);
    if (found != plans_.end()) return found->second.get();
    auto plan = Plan::Create(handle_.get(), m, bucket);
    if (!plan.ok()) return plan.status();
    return plans_.emplace(key, *std::move(plan)).first->second.get();
  }

  // out, in, bucket of rows, types of the weight and of y, bias, accumulate.
  using Key = std::tuple<int, int, int, DType, DType, bool, bool>;

  OwnedHandle handle_;
  void* workspace_ = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MatMul>> MatMul::Create(const Options& options) {
  if (options.deterministic) return std::unique_ptr<MatMul>(std::make_unique<OwnMatMul>());
  cublasLtHandle_t handle = nullptr;
  const cublasStatus_t status = cublasLtCreate(&handle);
  if (status != CUBLAS_STATUS_SUCCESS) {
    return absl::UnavailableError(LibraryStatus(status, "cublasLtCreate").message());
  }
  auto matmul = std::make_unique<LibraryMatMul>(OwnedHandle(handle));
  const absl::Status allocated = matmul->AllocateWorkspace();
  if (!allocated.ok()) return allocated;
  return std::unique_ptr<MatMul>(std::move(matmul));
}

}  // namespace packrat::gpu
