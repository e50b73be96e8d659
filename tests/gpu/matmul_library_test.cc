// What is asked of cuBLASLt, and when: by the emulated library, which keeps count.
#include "tests/emulation/cublasLt.h"
#include "tests/emulation/emulation.h"
#include "tests/gpu/matmul_case.h"

namespace packrat {
namespace {

TEST_F(MatMulGpuTest, TheLibraryIsAskedOncePerShape) {
  emulation::cublas_lt.proposals.resize(1);  // With one proposal there is nothing to tune.
  Random random(8);
  const auto matmul = Make(false);
  const auto run = [&](const Shape& shape) {
    Case c(shape, &random);
    const int64_t products = emulation::cublas_lt.products;
    Run(matmul.get(), &c);
    c.ExpectRight();
    return emulation::cublas_lt.products - products;
  };
  EXPECT_EQ(run({DType::kBF16, 8, 16, 32}), 0) << "few rows are our own";
  EXPECT_EQ(emulation::cublas_lt.heuristics, 0);
  for (const int rows : {16, 9, 12, 16}) EXPECT_EQ(run({DType::kBF16, rows, 16, 32}), 1);
  EXPECT_EQ(emulation::cublas_lt.heuristics, 1);
  EXPECT_EQ(run({DType::kBF16, 17, 16, 32}), 1);
  EXPECT_EQ(run({DType::kBF16, 16, 16, 32, DType::kBF16}), 1);
  EXPECT_EQ(run({DType::kBF16, 16, 16, 32, DType::kF32, true}), 1);
  EXPECT_EQ(run({DType::kBF16, 16, 16, 32, DType::kF32, false, true}), 1);
  EXPECT_EQ(run({DType::kF32, 16, 16, 32}), 1);
  EXPECT_EQ(emulation::cublas_lt.heuristics, 6);
  const int64_t allocations = emulation::counters.allocations;
  Case c({DType::kF32, 16, 16, 32}, &random);
  const int64_t of_the_case = emulation::counters.allocations - allocations;
  ASSERT_TRUE(matmul->Run(c.Arguments(), stream_).ok());
  EXPECT_EQ(emulation::counters.allocations - allocations, of_the_case) << "a product allocated";
  EXPECT_EQ(matmul->workspace_bytes(), size_t{32} << 20);
}

TEST_F(MatMulGpuTest, TheQuickestProposalIsKept) {
  emulation::cublas_lt.proposals = {{3.0}, {1.0, CUBLAS_STATUS_NOT_SUPPORTED}, {2.5}, {2.0}, {2.0},
                                    {4.0}};
  Random random(11);
  const auto matmul = Make(false);
  Case c({DType::kBF16, 20, 16, 32, DType::kF32, true, /*accumulate=*/true}, &random);
  const size_t free = FreeMemory();
  Run(matmul.get(), &c);
  c.ExpectRight();  // Added once, however often it was tried.
  EXPECT_EQ(emulation::cublas_lt.last_proposal, 3);
  EXPECT_EQ(FreeMemory(), free) << "memory of the trials was kept";
  const int64_t products = emulation::cublas_lt.products;
  const int64_t allocations = emulation::counters.allocations;
  emulation::cublas_lt.proposals[3].milliseconds = 5.0;
  Run(matmul.get(), &c);
  EXPECT_EQ(emulation::cublas_lt.last_proposal, 3) << "chosen twice";
  EXPECT_EQ(emulation::cublas_lt.products - products, 1);
  EXPECT_EQ(emulation::counters.allocations, allocations);
}

// An algorithm is chosen with one number of rows, and serves all of its bucket that it takes.
TEST_F(MatMulGpuTest, RowsThatTheChosenAlgorithmDoesNotTakeAreOurOwn) {
  for (const cublasStatus_t refusal : {CUBLAS_STATUS_NOT_SUPPORTED, CUBLAS_STATUS_INVALID_VALUE}) {
    emulation::cublas_lt = emulation::CublasLt();
    emulation::cublas_lt.proposals = {{1.0, CUBLAS_STATUS_SUCCESS, 16, refusal}, {2.0}};
    Random random(14);
    const auto run = [&](gpu::MatMul* matmul, int rows) {
      Case c({DType::kBF16, rows, 16, 32, DType::kF32, true, /*accumulate=*/true}, &random);
      emulation::cublas_lt.last_proposal = -1;
      Run(matmul, &c);
      c.ExpectRight();
      return emulation::cublas_lt.last_proposal;
    };
    const auto tuned_with_16 = Make(false);
    EXPECT_EQ(run(tuned_with_16.get(), 16), 0);
    EXPECT_EQ(run(tuned_with_16.get(), 12), -1);
    EXPECT_EQ(run(tuned_with_16.get(), 16), 0);
    EXPECT_EQ(emulation::cublas_lt.heuristics, 1);
    const auto tuned_with_12 = Make(false);
    EXPECT_EQ(run(tuned_with_12.get(), 12), 1);
    EXPECT_EQ(run(tuned_with_12.get(), 16), 1);
    EXPECT_EQ(emulation::cublas_lt.heuristics, 2);
  }
}

// Trials must not be recorded, and the library's code is loaded when it is first used.
TEST_F(MatMulGpuTest, ACaptureBeforeTheFirstRunIsRefused) {
  for (const int proposals : {1, 2}) {
    emulation::cublas_lt = emulation::CublasLt();
    emulation::cublas_lt.proposals.resize(proposals);
    Random random(12);
    const auto matmul = Make(false);
    Case c({DType::kBF16, 20, 16, 32}, &random);
    const auto capture = [&] {
      cudaGraph_t graph = nullptr;
      EXPECT_CUDA_OK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
      const absl::Status status = matmul->Run(c.Arguments(), stream_);
      EXPECT_CUDA_OK(cudaStreamEndCapture(stream_, &graph));
      EXPECT_CUDA_OK(cudaGraphDestroy(graph));
      return status;
    };
    EXPECT_EQ(capture().code(), absl::StatusCode::kInternal);
    EXPECT_EQ(emulation::cublas_lt.products, 0);
    Run(matmul.get(), &c);
    c.ExpectRight();
    const int64_t products = emulation::cublas_lt.products;
    EXPECT_TRUE(capture().ok());
    EXPECT_EQ(emulation::cublas_lt.products, products + 1);
  }
}

TEST_F(MatMulGpuTest, WithoutMemoryToTryTheFirstProposalServes) {
  emulation::cublas_lt.proposals = {{3.0}, {2.0}};
  Random random(13);
  const auto matmul = Make(false);
  Case c({DType::kBF16, 20, 16, 32}, &random);
  emulation::machine.memory -= FreeMemory();
  Run(matmul.get(), &c);
  c.ExpectRight();
  EXPECT_EQ(emulation::cublas_lt.last_proposal, 0);
  EXPECT_EQ(emulation::cublas_lt.products, 1);
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess) << "left for the next launch to find";
}

TEST_F(MatMulGpuTest, WhatTheLibraryDoesNotDoIsOurOwn) {
  Random random(9);
  const auto matmul = Make(false);
  // A float32 bias on bfloat16 outputs; operands off their alignment.
  for (const Shape& shape : {Shape{DType::kBF16, 20, 16, 32, DType::kBF16, true},
                             Shape{DType::kBF16, 20, 16, 32, DType::kF32, true, true, 0, 0.3f},
                             Shape{DType::kBF16, 20, 16, 32, DType::kF32, false, false, 1},
                             Shape{DType::kF32, 20, 16, 32, DType::kF32, false, false, 1}}) {
    Case c(shape, &random);
    Run(matmul.get(), &c);
    c.ExpectRight();
  }
  EXPECT_EQ(emulation::cublas_lt.products, 0);
}

TEST_F(MatMulGpuTest, FailuresOfTheLibraryAreStatuses) {
  Random random(10);
  emulation::cublas_lt.create = CUBLAS_STATUS_NOT_INITIALIZED;
  const auto none = gpu::MatMul::Create({});
  EXPECT_EQ(none.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(none.status().message(), "cublasLtCreate: CUBLAS_STATUS_NOT_INITIALIZED");
  EXPECT_TRUE(gpu::MatMul::Create({/*deterministic=*/true}).ok()) << "needs no library";
  emulation::cublas_lt.create = CUBLAS_STATUS_SUCCESS;
  {
    emulation::machine.memory = 0;
    EXPECT_EQ(gpu::MatMul::Create({}).status().code(), absl::StatusCode::kInternal);
    emulation::machine.memory = size_t{1} << 30;
    cudaGetLastError();
    EXPECT_EQ(emulation::cublas_lt.objects, 0) << "left behind by a Create() that failed";
  }
  auto matmul = Make(false);
  Case c({DType::kBF16, 20, 16, 32}, &random);
  emulation::cublas_lt.heuristic = CUBLAS_STATUS_ALLOC_FAILED;
  absl::Status status = matmul->Run(c.Arguments(), stream_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(status.message(), "planning a product: CUBLAS_STATUS_ALLOC_FAILED");
  emulation::cublas_lt.heuristic = CUBLAS_STATUS_SUCCESS;
  emulation::cublas_lt.matmul = CUBLAS_STATUS_EXECUTION_FAILED;
  status = matmul->Run(c.Arguments(), stream_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(status.message(), "cublasLtMatmul: CUBLAS_STATUS_EXECUTION_FAILED");
  Wait();
  for (const float v : c.Y()) EXPECT_TRUE(std::isnan(v)) << "written by a product that failed";
  emulation::cublas_lt.matmul = CUBLAS_STATUS_SUCCESS;
  Run(matmul.get(), &c);
  c.ExpectRight();
  matmul.reset();
  EXPECT_EQ(emulation::cublas_lt.objects, 0) << "objects of the library were not destroyed";
}

}  // namespace
}  // namespace packrat
