// Products by cuBLASLt, or by our own kernels where those are quicker or the library has none.
#include <map>
#include <tuple>
#include <utility>

#include "kernels/check.h"
#include "kernels/device.cuh"
#include "kernels/matmul.h"
#include "kernels/matmul_own.h"
#include "kernels/matmul_plan.cuh"

namespace packrat::gpu {
namespace {

// Rounds a number of rows up to one for which the library's products are tuned: to a multiple of an
// eighth to a half of it, so that prompts of many lengths share a few.
int RowBucket(int rows) {
  int step = 8;
  while (step * 8 < rows) step *= 2;
  return (rows + step - 1) / step * step;
}

absl::Status MultiplyByOwn(const MatMulArguments& m, CudaStream stream) {
  return m.type == DType::kBF16 ? MultiplyBf16(m, stream) : MultiplyF32(m, stream);
}

class OwnMatMul : public MatMul {
 public:
  absl::Status Run(const MatMulArguments& m, CudaStream stream) override {
    Check(m);
    return m.rows == 0 ? absl::OkStatus() : MultiplyByOwn(m, stream);
  }
  size_t workspace_bytes() const override { return 0; }

  static void Check(const MatMulArguments& m) {
    PACKRAT_CHECK(m.type == DType::kF32 || m.type == DType::kBF16);
    PACKRAT_CHECK(m.weight->type == m.type || IsQuantized(m.weight->type));
    PACKRAT_CHECK(m.weight->in >= 1 && m.weight->out >= 1 && m.rows >= 0);
    PACKRAT_CHECK(m.y_type == DType::kF32 || m.y_type == m.type);
    PACKRAT_CHECK(!m.accumulate || m.y_type == DType::kF32);
  }
};

class LibraryMatMul : public MatMul {
 public:
  explicit LibraryMatMul(std::unique_ptr<MatMulLibrary> library) : library_(std::move(library)) {}

  absl::Status Run(const MatMulArguments& m, CudaStream stream) override {
    OwnMatMul::Check(m);
    if (m.rows == 0) return absl::OkStatus();
    const bool few = m.rows <= kFewRows;
    if (few && m.type == DType::kF32) return MultiplyFewRowsF32(m, stream);
    if (few || IsQuantized(m.weight->type)) return MultiplyByOwn(m, stream);
    // The library takes a bias for one of y's type, has no product of another, and scales none.
    if (!Aligned(m) || (m.bias != nullptr && (m.y_type != DType::kF32 || m.scale != 1.0f))) {
      return MultiplyByOwn(m, stream);
    }
    const auto plan = FindPlan(m);
    if (!plan.ok()) return plan.status();
    stream.overlap = false;  // What it tried may be before it.
    if (!(*plan)->supported()) return MultiplyByOwn(m, stream);
    const cublasStatus_t status = (*plan)->Run(m, stream);
    // The algorithm was chosen for another number of rows of the bucket, and may not like this one.
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
      return MultiplyByOwn(m, stream);
    }
    return LibraryStatus(status, "cublasLtMatmul");
  }
  size_t workspace_bytes() const override { return MatMulLibrary::kWorkspaceBytes; }

 private:
  static bool Aligned(const MatMulArguments& m) {
    for (const void* p : {m.weight->data, m.x, const_cast<const void*>(m.y)}) {
      if (reinterpret_cast<uintptr_t>(p) % MatMulPlan::kAlignment != 0) return false;
    }
    return true;
  }

  absl::StatusOr<MatMulPlan*> FindPlan(const MatMulArguments& m) {
    const int bucket = RowBucket(m.rows);
    const Key key{m.weight->out, m.weight->in,      bucket,      m.type,
                  m.y_type,      m.bias != nullptr, m.accumulate};
    const auto found = plans_.find(key);
    if (found != plans_.end()) return found->second.get();
    auto plan = MatMulPlan::Create(library_.get(), m, bucket);
    if (!plan.ok()) return plan.status();
    return plans_.emplace(key, *std::move(plan)).first->second.get();
  }

  // out, in, bucket of rows, types of the weight and of y, bias, accumulate.
  using Key = std::tuple<int, int, int, DType, DType, bool, bool>;

  std::unique_ptr<MatMulLibrary> library_;
  std::map<Key, std::unique_ptr<MatMulPlan>> plans_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MatMul>> MatMul::Create(const Options& options) {
  if (options.deterministic) return std::unique_ptr<MatMul>(std::make_unique<OwnMatMul>());
  auto library = MatMulLibrary::Create();
  if (!library.ok()) return library.status();
  return std::unique_ptr<MatMul>(std::make_unique<LibraryMatMul>(*std::move(library)));
}

}  // namespace packrat::gpu
