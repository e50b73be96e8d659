// What the card can do: bandwidth of a copy and of reading, rates of the library's large products.
#include <cuda_runtime_api.h>

#ifndef PACKRAT_EMULATED
#include <cublasLt.h>
#endif

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cublas_lt.h"
#include "kernels/elementwise.h"
#include "tests/bench/gpu/bench.h"

namespace packrat::gpu_bench {
namespace {

absl::StatusOr<double> TimeCopy(Bench* bench, size_t bytes) {
  BENCH_ASSIGN(gpu::DeviceMemory from, gpu::DeviceMemory::AllocateZeroed(bytes, "a copy"));
  BENCH_ASSIGN(gpu::DeviceMemory to, gpu::DeviceMemory::AllocateZeroed(bytes, "a copy"));
  return bench->Time(4, [&](int i, CudaStream stream) {
    return gpu::CudaStatus(
        cudaMemcpyAsync((i % 2 != 0 ? from : to).data(), (i % 2 != 0 ? to : from).data(), bytes,
                        cudaMemcpyDeviceToDevice, stream),
        "a copy");
  });
}

// What kernels that only read can reach, by one that does: it looks at every number, and writes
// where one is not finite.
absl::StatusOr<double> TimeRead(Bench* bench, size_t bytes) {
  const int n = bench->options().tiny ? 1024 : 8192;
  const auto rows = static_cast<int>(bytes / (n * sizeof(float)));
  BENCH_ASSIGN(gpu::DeviceMemory x, gpu::DeviceMemory::AllocateZeroed(bytes, "what is read"));
  BENCH_ASSIGN(gpu::DeviceMemory totals,
               gpu::DeviceMemory::AllocateZeroed(sizeof(SpanTotals), "what is not written"));
  BENCH_ASSIGN(const SpanBatch batch, SpanBatch::Make({0}, rows, 0));
  return bench->Time(2, [&](int, CudaStream stream) {
    return gpu::CheckFinite(batch.view(), reinterpret_cast<const float*>(x.data()), n,
                            reinterpret_cast<SpanTotals*>(totals.data()), stream);
  });
}

#ifndef PACKRAT_EMULATED
absl::Status Check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cublasLtGetStatusName(status)));
}

// The fastest of the library's first eight proposals for an n x n x n product of random numbers.
// Straight at the library: the yardstick must not depend on how well we use it. What the library
// made is left to the end of the process.
absl::StatusOr<double> TimeCube(Bench* bench, int n, DType type) {
  const cudaDataType t = type == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F;
  const size_t elements = size_t(n) * n, workspace_bytes = size_t{64} << 20;
  BENCH_ASSIGN(gpu::DeviceMemory a, bench->Random(elements, type, 1.0f));
  BENCH_ASSIGN(gpu::DeviceMemory b, bench->Random(elements, type, 1.0f));
  BENCH_ASSIGN(gpu::DeviceMemory c, bench->Random(elements, type, 1.0f));
  BENCH_ASSIGN(gpu::DeviceMemory workspace,
               gpu::DeviceMemory::Allocate(workspace_bytes, "workspace"));
  BENCH_RETURN_IF_ERROR(gpu::OpenCublasLt());
  cublasLtHandle_t handle = nullptr;
  BENCH_RETURN_IF_ERROR(Check(cublasLtCreate(&handle), "cublasLtCreate"));
  cublasLtMatmulDesc_t product = nullptr;
  BENCH_RETURN_IF_ERROR(
      Check(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product"));
  const cublasOperation_t transposed = CUBLAS_OP_T;
  BENCH_RETURN_IF_ERROR(Check(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA,
                                                             &transposed, sizeof transposed),
                              "a product"));
  cublasLtMatrixLayout_t layout = nullptr;
  BENCH_RETURN_IF_ERROR(Check(cublasLtMatrixLayoutCreate(&layout, t, n, n, n), "a layout"));
  cublasLtMatmulPreference_t preference = nullptr;
  BENCH_RETURN_IF_ERROR(Check(cublasLtMatmulPreferenceCreate(&preference), "a preference"));
  BENCH_RETURN_IF_ERROR(Check(
      cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                           &workspace_bytes, sizeof workspace_bytes),
      "a preference"));
  cublasLtMatmulHeuristicResult_t proposals[8];
  int found = 0;
  BENCH_RETURN_IF_ERROR(
      Check(cublasLtMatmulAlgoGetHeuristic(handle, product, layout, layout, layout, layout,
                                           preference, 8, proposals, &found),
            "asking for algorithms"));
  double best = 0;
  for (int i = 0; i < found; ++i) {
    const float one = 1.0f, zero = 0.0f;
    const auto run = [&](int, CudaStream stream) {
      return Check(cublasLtMatmul(handle, product, &one, a.data(), layout, b.data(), layout, &zero,
                                  c.data(), layout, c.data(), layout, &proposals[i].algo,
                                  workspace.data(), workspace_bytes, stream),
                   "cublasLtMatmul");
    };
    const auto seconds = bench->Time(2, run);
    if (seconds.ok() && (best == 0 || *seconds < best)) best = *seconds;
  }
  if (best == 0) return absl::InternalError("the library has no algorithm that runs");
  return best;
}
#else
absl::StatusOr<double> TimeCube(Bench*, int, DType) { return 1e-3; }
#endif

}  // namespace

void BenchLimits(Bench* bench) {
  const bool tiny = bench->options().tiny;
  Limits& limits = bench->limits();
  Row row;
  row.name = "device";
  row.shape = bench->options().predict
                  ? "none: limits are assumed"
                  : absl::StrCat(bench->device().name, ", ", bench->device().multiprocessors,
                                 " multiprocessors, ", bench->device().total_bytes >> 20, " MiB");
  bench->Add(row);
  const double copied = tiny ? 1 << 16 : size_t{2} << 30;
  const auto measure = [&](const std::string& name, const std::string& shape, double amount,
                           const std::string& unit, double scale, double* limit,
                           const std::function<absl::StatusOr<double>()>& run) {
    Row row;
    row.name = name, row.shape = shape, row.unit = unit;
    row.predicted = bench->options().predict;
    if (!bench->options().predict) {
      const absl::StatusOr<double> seconds = run();
      if (!seconds.ok()) {
        row.error = absl::StrCat(std::string(seconds.status().message()), "; assumed");
      } else {
        row.seconds = *seconds;
        *limit = amount / *seconds;
      }
    }
    row.figure = *limit / scale;
    bench->Add(std::move(row));
  };
  measure("copy, read plus written", "2 GiB", 2 * copied, "GB/s", 1e9, &limits.bytes_per_second,
          [&] { return TimeCopy(bench, static_cast<size_t>(copied)); });
  // Beside the copy's, which is the limit of all rows.
  double read = limits.bytes_per_second;
  measure("read alone (CheckFinite)", "2 GiB", copied, "GB/s", 1e9, &read,
          [&] { return TimeRead(bench, static_cast<size_t>(copied)); });
  const int n = tiny ? 64 : 8192;
  const double flops = 2.0 * n * n * n;
  const std::string shape = absl::StrCat(n, " x ", n, " x ", n);
  measure("bf16 products (cuBLASLt)", shape, flops, "TFLOP/s", 1e12, &limits.bf16_flops,
          [&] { return TimeCube(bench, n, DType::kBF16); });
  measure("float32 products (cuBLASLt, no TF32)", shape, flops, "TFLOP/s", 1e12, &limits.f32_flops,
          [&] { return TimeCube(bench, n, DType::kF32); });
  limits.measured = !bench->options().predict;
}

}  // namespace packrat::gpu_bench
