#include "kernels/matmul_plan.cuh"

#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/cublas_lt.h"
#include "kernels/device.cuh"

namespace packrat::gpu {
namespace {

constexpr int kProposals = 8;  // To ask for: the library orders them by its own estimate.
constexpr int kTimedRuns = 3;  // Of each, after one that may load its code; the quickest counts.

cudaDataType LibraryType(DType type) { return type == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF; }

// Times work on a stream.
class Stopwatch {
 public:
  ~Stopwatch() {
    if (begin_ != nullptr) cudaEventDestroy(begin_);
    if (end_ != nullptr) cudaEventDestroy(end_);
  }
  cudaError_t Create() {
    const cudaError_t error = cudaEventCreateWithFlags(&begin_, 0);
    return error != cudaSuccess ? error : cudaEventCreateWithFlags(&end_, 0);
  }
  cudaError_t Begin(CudaStream stream) { return cudaEventRecord(begin_, stream); }
  // Waits for the work since Begin().
  cudaError_t End(CudaStream stream, float* milliseconds) {
    cudaError_t error = cudaEventRecord(end_, stream);
    if (error == cudaSuccess) error = cudaEventSynchronize(end_);
    return error != cudaSuccess ? error : cudaEventElapsedTime(milliseconds, begin_, end_);
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace

absl::Status LibraryStatus(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  char text[160];
  std::snprintf(text, sizeof text, "%s: %s", what, cublasLtGetStatusName(status));
  return absl::InternalError(text);
}

absl::StatusOr<std::unique_ptr<MatMulLibrary>> MatMulLibrary::Create() {
  const absl::Status opened = OpenCublasLt();
  if (!opened.ok()) return opened;
  auto library = std::make_unique<MatMulLibrary>();
  cublasLtHandle_t handle = nullptr;
  const cublasStatus_t created = cublasLtCreate(&handle);
  if (created != CUBLAS_STATUS_SUCCESS) {
    return absl::UnavailableError(LibraryStatus(created, "cublasLtCreate").message());
  }
  library->handle_.reset(handle);
  cudaDeviceProp properties = {};
  const absl::Status described =
      ToStatus(cudaGetDeviceProperties(&properties, 0), "properties of the device");
  if (!described.ok()) return described;
  const absl::Status allocated =
      ToStatus(cudaMalloc(&library->workspace_, kWorkspaceBytes), "workspace of matrix products");
  if (!allocated.ok()) return allocated;
  library->cache_bytes_ = static_cast<size_t>(properties.l2CacheSize);
  return library;
}

MatMulLibrary::~MatMulLibrary() { cudaFree(workspace_); }

absl::StatusOr<std::unique_ptr<MatMulPlan>> MatMulPlan::Create(const MatMulLibrary* library,
                                                               const MatMulArguments& m,
                                                               int bucket) {
  auto plan = std::make_unique<MatMulPlan>();
  plan->library_ = library;
  cublasStatus_t status = plan->Describe(m, bucket);
  if (status == CUBLAS_STATUS_SUCCESS) status = plan->Propose();
  if (status != CUBLAS_STATUS_SUCCESS) return LibraryStatus(status, "planning a product");
  return plan;
}

cublasStatus_t MatMulPlan::Run(const MatMulArguments& m, CudaStream stream) {
  cublasStatus_t status = SetBias(m.bias);
  if (status == CUBLAS_STATUS_SUCCESS) status = SetRows(m.rows);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (!has_run_) {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(stream, &capture) != cudaSuccess ||
        capture != cudaStreamCaptureStatusNone) {
      return CUBLAS_STATUS_NOT_INITIALIZED;
    }
    if (proposals_.size() > 1) Tune(m, stream);
    has_run_ = true;
  }
  return Multiply(proposals_[0], m, m.y, stream);
}

cublasStatus_t MatMulPlan::Describe(const MatMulArguments& m, int bucket) {
  const auto out = static_cast<uint64_t>(m.weight->out), in = static_cast<uint64_t>(m.weight->in);
  const auto type = LibraryType(m.weight->type);
  const auto layout = [](auto* owned, cudaDataType t, uint64_t rows, uint64_t cols) {
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

cublasStatus_t MatMulPlan::SetBias(const float* bias) {
  if (bias == nullptr) return CUBLAS_STATUS_SUCCESS;
  return cublasLtMatmulDescSetAttribute(desc_.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                        sizeof bias);
}

cublasStatus_t MatMulPlan::SetRows(int rows) {
  const auto cols = static_cast<uint64_t>(rows);
  for (const auto* layout : {&x_, &y_}) {
    const cublasStatus_t status = cublasLtMatrixLayoutSetAttribute(
        layout->get(), CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof cols);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  }
  return CUBLAS_STATUS_SUCCESS;
}

// Asks the library. It is no error if it has no proposal.
cublasStatus_t MatMulPlan::Propose() {
  cublasLtMatmulPreference_t made = nullptr;
  cublasStatus_t status = cublasLtMatmulPreferenceCreate(&made);
  const Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference(made);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    if (status != CUBLAS_STATUS_SUCCESS) return;
    status = cublasLtMatmulPreferenceSetAttribute(made, attribute, &value, sizeof value);
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{MatMulLibrary::kWorkspaceBytes});
  // Partial sums stay float32.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  for (const auto alignment :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    prefer(alignment, uint32_t{kAlignment});
  }
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  cublasLtMatmulHeuristicResult_t results[kProposals] = {};
  int found = 0;
  status = cublasLtMatmulAlgoGetHeuristic(library_->handle(), desc_.get(), weight_.get(), x_.get(),
                                          y_.get(), y_.get(), made, kProposals, results, &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return CUBLAS_STATUS_SUCCESS;
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  for (int i = 0; i < found; ++i) {
    if (results[i].state == CUBLAS_STATUS_SUCCESS &&
        results[i].workspaceSize <= MatMulLibrary::kWorkspaceBytes) {
      proposals_.push_back(results[i].algo);
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

// Keeps the quickest proposal, or the first if none could be timed. The results go to memory of
// their own, since y may be an operand; overwriting it before each run, and as much as the cache
// holds, leaves the weight in memory, from where a step reads it.
void MatMulPlan::Tune(const MatMulArguments& m, CudaStream stream) {
  const size_t result_bytes = static_cast<size_t>(m.rows) * m.weight->out * DTypeBytes(m.y_type);
  const size_t bytes = std::max(result_bytes, library_->cache_bytes());
  void* result = nullptr;
  Stopwatch stopwatch;
  size_t best = 0;
  float best_time = std::numeric_limits<float>::infinity();
  if (cudaMalloc(&result, bytes) == cudaSuccess && stopwatch.Create() == cudaSuccess) {
    for (size_t i = 0; i < proposals_.size(); ++i) {
      for (int run = 0; run <= kTimedRuns; ++run) {
        float time = 0.0f;
        if (cudaMemsetAsync(result, 0, bytes, stream) != cudaSuccess ||
            stopwatch.Begin(stream) != cudaSuccess ||
            Multiply(proposals_[i], m, result, stream) != CUBLAS_STATUS_SUCCESS ||
            stopwatch.End(stream, &time) != cudaSuccess) {
          break;
        }
        if (run > 0 && time < best_time) {
          best = i;
          best_time = time;
        }
      }
    }
  }
  cudaFree(result);
  cudaGetLastError();  // Clears a lack of memory. A lost device shows in every later call.
  proposals_ = {proposals_[best]};
}

cublasStatus_t MatMulPlan::Multiply(const cublasLtMatmulAlgo_t& algorithm, const MatMulArguments& m,
                                    void* result, CudaStream stream) {
  const float alpha = m.scale, beta = m.accumulate ? 1.0f : 0.0f;
  return cublasLtMatmul(library_->handle(), desc_.get(), &alpha, m.weight->data, weight_.get(), m.x,
                        x_.get(), &beta, m.y, y_.get(), result, y_.get(), &algorithm,
                        library_->workspace(), MatMulLibrary::kWorkspaceBytes, stream);
}

}  // namespace packrat::gpu
