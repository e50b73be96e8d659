#include "kernels/matmul.h"

#include <memory>
#include <utility>

#include "tests/gpu/gpu.h"
#include "tests/kernels/random.h"
#ifdef PACKRAT_EMULATED
#include "tests/emulation/cublasLt.h"
#endif

namespace packrat {
namespace {

// Numbers in device memory, of either type; the first `skip` elements are left out, so that
// operands begin at odd addresses.
class Stored {
 public:
  Stored(DType type, size_t n, int skip = 0) : type_(type), skip_(skip) {
    if (type == DType::kF32) {
      floats_ = std::make_unique<DeviceArray<float>>(n + skip);
    } else {
      halves_ = std::make_unique<DeviceArray<__nv_bfloat16>>(n + skip);
    }
  }
  Stored(DType type, const std::vector<float>& values, int skip = 0)
      : Stored(type, values.size(), skip) {
    Set(values);
  }
  void* data() const {
    return floats_ != nullptr ? static_cast<void*>(floats_->data() + skip_)
                              : static_cast<void*>(halves_->data() + skip_);
  }
  void Set(const std::vector<float>& values) {
    std::vector<float> all(skip_, kNaN);
    all.insert(all.end(), values.begin(), values.end());
    if (floats_ != nullptr) {
      floats_->Set(all);
    } else {
      halves_->Set(ToBFloat16(all));
    }
  }
  std::vector<float> Get() const {
    const std::vector<float> all = floats_ != nullptr ? floats_->Get() : ToFloats(halves_->Get());
    return std::vector<float>(all.begin() + skip_, all.end());
  }
  // What this type keeps of the values.
  static std::vector<float> Rounded(DType type, const std::vector<float>& values) {
    return type == DType::kF32 ? values : ToFloats(ToBFloat16(values));
  }

 private:
  DType type_;
  int skip_;
  std::unique_ptr<DeviceArray<float>> floats_;
  std::unique_ptr<DeviceArray<__nv_bfloat16>> halves_;
};

struct Shape {
  DType type;
  int rows, out, in;
  DType y_type = DType::kF32;
  bool bias = false, accumulate = false;
  int skip = 0;  // Elements by which the weight and x are off the alignment of allocations.
};

// A product and its operands.
class Case {
 public:
  Case(const Shape& shape, Random* random)
      : shape_(shape),
        values_(Stored::Rounded(shape.type, random->Normals(Size(shape.out, shape.in)))),
        x_(Stored::Rounded(shape.type, random->Normals(Size(shape.rows, shape.in)))),
        bias_(random->Normals(shape.out)),
        before_(random->Normals(Size(shape.rows, shape.out))),
        weight_(shape.type, values_, shape.skip),
        device_x_(shape.type, x_, shape.skip),
        device_bias_(DType::kF32, bias_),
        y_(shape.y_type, Size(shape.rows, shape.out)) {
    matrix_.data = weight_.data();
    matrix_.type = shape.type;
    matrix_.out = shape.out;
    matrix_.in = shape.in;
    Reset();
  }

  // As before any product.
  void Reset() { y_.Set(shape_.accumulate ? before_ : std::vector<float>(before_.size(), kNaN)); }
  gpu::MatMulArguments Arguments() const { return Arguments(0, shape_.rows); }
  // Of some of the rows.
  gpu::MatMulArguments Arguments(int first, int rows) const {
    const size_t x_at = Size(first, shape_.in) * DTypeBytes(shape_.type);
    const size_t y_at = Size(first, shape_.out) * DTypeBytes(shape_.y_type);
    return {&matrix_,
            static_cast<const char*>(device_x_.data()) + x_at,
            rows,
            static_cast<char*>(y_.data()) + y_at,
            shape_.y_type,
            shape_.bias ? static_cast<const float*>(device_bias_.data()) : nullptr,
            shape_.accumulate};
  }
  std::vector<float> Y() const { return y_.Get(); }
  const std::vector<float>& x() const { return x_; }
  void SetX(const std::vector<float>& x) {
    x_ = Stored::Rounded(shape_.type, x);
    device_x_.Set(x_);
  }

  // A sum of n terms in float32, in any order, is within n units of the sum of their magnitudes;
  // beside the products (exact or within one multiply-add) there are the sums of parts, the bias
  // and the old value. Tensor cores may truncate where others round: twice the unit.
  void ExpectRight() const {
    const std::vector<float> y = Y();
    for (int r = 0; r < shape_.rows; ++r) {
      for (int o = 0; o < shape_.out; ++o) {
        double sum = 0, magnitude = 0;
        const auto add = [&](double term) { sum += term, magnitude += std::fabs(term); };
        for (int k = 0; k < shape_.in; ++k) {
          add(double{x_[Size(r, shape_.in) + k]} * values_[Size(o, shape_.in) + k]);
        }
        if (shape_.bias) add(bias_[o]);
        if (shape_.accumulate) add(before_[Size(r, shape_.out) + o]);
        const double unit = shape_.type == DType::kF32 ? kUnit : 2 * kUnit;
        const double stored = shape_.y_type == DType::kF32 ? 0 : 0x1p-8;  // The result's rounding.
        const double error = (shape_.in + 2 + 8) * unit * magnitude;
        ASSERT_NEAR(y[Size(r, shape_.out) + o], sum, error + stored * (std::fabs(sum) + error))
            << "row " << r << " output " << o;
      }
    }
  }

 private:
  static size_t Size(int a, int b) { return static_cast<size_t>(a) * b; }

  Shape shape_;
  std::vector<float> values_, x_, bias_, before_;
  Stored weight_, device_x_, device_bias_, y_;
  gpu::Matrix matrix_;
};

std::string Describe(const Shape& s) {
  return std::string(DTypeName(s.type)) + " rows " + std::to_string(s.rows) + " out " +
         std::to_string(s.out) + " in " + std::to_string(s.in) + " to " + DTypeName(s.y_type) +
         (s.bias ? " bias" : "") + (s.accumulate ? " accumulate" : "") + " skip " +
         std::to_string(s.skip);
}

class MatMulGpuTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
#ifdef PACKRAT_EMULATED
    emulation::cublas_lt = emulation::CublasLt();
#endif
  }
  static std::unique_ptr<gpu::MatMul> Make(bool deterministic) {
    gpu::MatMul::Options options;
    options.deterministic = deterministic;
    auto matmul = gpu::MatMul::Create(options);
    EXPECT_TRUE(matmul.ok()) << matmul.status();
    return *std::move(matmul);
  }
  static size_t FreeMemory() {
    size_t free = 0, total = 0;
    EXPECT_CUDA_OK(cudaMemGetInfo(&free, &total));
    return free;
  }
  std::vector<float> Run(gpu::MatMul* matmul, Case* c) {
    c->Reset();
    EXPECT_TRUE(matmul->Run(c->Arguments(), stream_).ok());
    Wait();
    return c->Y();
  }
};

// Sizes that fill tiles and chunks of the inner dimension, that do not, and that are smaller than
// any; inner sizes of which the rows cannot be moved 16 bytes at a time; rows for every kernel.
std::vector<Shape> Shapes(DType type) {
  std::vector<Shape> shapes = {
      {type, 1, 16, 64},  {type, 3, 8, 8},      {type, 8, 40, 640}, {type, 2, 1, 1},
      {type, 5, 19, 101}, {type, 9, 33, 72},    {type, 16, 16, 16}, {type, 17, 50, 200},
      {type, 33, 7, 37},  {type, 64, 130, 136}, {type, 70, 8, 520}, {type, 300, 24, 40},
      {type, 130, 5, 9},
  };
  for (size_t i = 0; i < shapes.size(); ++i) {
    Shape& s = shapes[i];
    s.bias = i % 3 == 1;
    s.y_type = i % 4 == 1 ? type : DType::kF32;
    s.accumulate = i % 4 == 3;
    s.skip = i % 5 == 4 ? 1 : 0;
  }
  return shapes;
}

class EveryModeTest : public MatMulGpuTest,
                      public testing::WithParamInterface<std::pair<DType, bool>> {};
INSTANTIATE_TEST_SUITE_P(Types, EveryModeTest,
                         testing::Values(std::pair(DType::kF32, false),
                                         std::pair(DType::kF32, true),
                                         std::pair(DType::kBF16, false),
                                         std::pair(DType::kBF16, true)));

TEST_P(EveryModeTest, MeetsTheReference) {
  const auto [type, deterministic] = GetParam();
  Random random(1);
  const auto matmul = Make(deterministic);
  for (const Shape& shape : Shapes(type)) {
    SCOPED_TRACE(Describe(shape));
    Case c(shape, &random);
    Run(matmul.get(), &c);
    c.ExpectRight();
    if (HasFatalFailure()) return;
  }
}

// Bias, accumulation and the type of y in all combinations, for a kernel of each kind.
TEST_P(EveryModeTest, EveryEpilogue) {
  const auto [type, deterministic] = GetParam();
  Random random(2);
  const auto matmul = Make(deterministic);
  for (const int rows : {3, 12, 40}) {
    for (const bool bias : {false, true}) {
      for (const bool accumulate : {false, true}) {
        for (const DType y_type : {DType::kF32, type}) {
          if (accumulate && y_type != DType::kF32) continue;
          const Shape shape{type, rows, 21, 48, y_type, bias, accumulate};
          SCOPED_TRACE(Describe(shape));
          Case c(shape, &random);
          Run(matmul.get(), &c);
          c.ExpectRight();
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(EveryModeTest, TheOrderOfThreadsDoesNotMatter) {
  const auto [type, deterministic] = GetParam();
  Random random(3);
  const auto matmul = Make(deterministic);
  for (const int rows : {4, 14, 30, 130}) {  // A kernel for each, and all stages of its pipeline.
    const Shape shape{type, rows, 20, 584};
    Case c(shape, &random);
    std::vector<float> first;
    ForEachOrder([&] {
      const std::vector<float> y = Run(matmul.get(), &c);
      if (first.empty()) first = y;
      EXPECT_TRUE(SameBits(first, y)) << Describe(shape);
    });
    c.ExpectRight();
    if (HasFatalFailure()) return;
  }
}

TEST_P(EveryModeTest, NaNStaysInItsRow) {
  const auto [type, deterministic] = GetParam();
  Random random(4);
  const auto matmul = Make(deterministic);
  for (const int rows : {2, 11, 40, 70}) {
    Case c({type, rows, 18, 72}, &random);
    const std::vector<float> clean = Run(matmul.get(), &c);
    std::vector<float> x = c.x();
    const int bad = rows / 2;
    x[bad * 72 + 40] = kNaN;
    c.SetX(x);
    const std::vector<float> y = Run(matmul.get(), &c);
    for (int r = 0; r < rows; ++r) {
      for (int o = 0; o < 18; ++o) {
        const int i = r * 18 + o;
        if (r == bad) {
          EXPECT_TRUE(std::isnan(y[i]));
        } else {
          EXPECT_TRUE(SameBits(&y[i], &clean[i], 1)) << "row " << r << " of " << rows;
        }
      }
    }
  }
}

// A graph captured once, its plans made while it was, serves other contents of the same memory.
TEST_P(EveryModeTest, IsCaptured) {
  const auto [type, deterministic] = GetParam();
  Random random(5);
  const auto matmul = Make(deterministic);
  for (const int rows : {1, 20}) {
    Case c({type, rows, 24, 64, DType::kF32, true, true}, &random);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    EXPECT_CUDA_OK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    EXPECT_TRUE(matmul->Run(c.Arguments(), stream_).ok());
    EXPECT_CUDA_OK(cudaStreamEndCapture(stream_, &graph));
    EXPECT_CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 2; ++i) {
      c.SetX(random.Normals(c.x().size()));
      c.Reset();
      EXPECT_CUDA_OK(cudaGraphLaunch(exec, stream_));
      Wait();
      c.ExpectRight();
    }
    EXPECT_CUDA_OK(cudaGraphExecDestroy(exec));
    EXPECT_CUDA_OK(cudaGraphDestroy(graph));
  }
}

TEST_P(EveryModeTest, NoRowsWriteNothing) {
  const auto [type, deterministic] = GetParam();
  Random random(6);
  const auto matmul = Make(deterministic);
  Case c({type, 2, 8, 8}, &random);
  EXPECT_TRUE(matmul->Run(c.Arguments(0, 0), stream_).ok());
  Wait();
  for (const float v : c.Y()) EXPECT_TRUE(std::isnan(v));
}

// Rows alone, in pairs and in companies for which other kernels are chosen, against all together.
class RowsTest : public MatMulGpuTest, public testing::WithParamInterface<DType> {
 protected:
  void ExpectSameInPieces(gpu::MatMul* matmul, const Shape& shape, const std::vector<int>& pieces) {
    SCOPED_TRACE(Describe(shape));
    Random random(7);
    Case c(shape, &random);
    const std::vector<float> together = Run(matmul, &c);
    for (const int piece : pieces) {
      c.Reset();
      for (int first = 0; first < shape.rows; first += piece) {
        const int rows = std::min(piece, shape.rows - first);
        EXPECT_TRUE(matmul->Run(c.Arguments(first, rows), stream_).ok());
      }
      Wait();
      EXPECT_TRUE(SameBits(together, c.Y())) << "in pieces of " << piece << " rows";
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Types, RowsTest, testing::Values(DType::kF32, DType::kBF16));

TEST_P(RowsTest, ARowAloneHasTheBitsOfTheRowInCompany) {
  const auto matmul = Make(true);
  // Of 300 or 130 rows tiles are made, of 70 with few outputs not.
  ExpectSameInPieces(matmul.get(), {GetParam(), 300, 130, 72, DType::kF32, true, true},
                     {7, 64, 130});
  ExpectSameInPieces(matmul.get(), {GetParam(), 70, 9, 1096, GetParam(), true}, {1, 7, 12, 30, 64});
  ExpectSameInPieces(matmul.get(), {GetParam(), 70, 9, 75}, {1, 12, 40});
  ExpectSameInPieces(matmul.get(), {GetParam(), 70, 8, 64, DType::kF32, false, false, 1}, {1, 40});
}

TEST_P(RowsTest, OneToEightRowsHaveTheSameBitsByDefault) {
  const auto matmul = Make(false);
  for (const int rows : {2, 3, 5, 8}) {
    ExpectSameInPieces(matmul.get(), {GetParam(), rows, 37, 600}, {1, 2, 4});
    ExpectSameInPieces(matmul.get(), {GetParam(), rows, 5, 75}, {1, 4});
  }
}

#ifdef PACKRAT_EMULATED

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

// Trials must not be recorded: the first proposal serves until the shape is seen outside.
TEST_F(MatMulGpuTest, ACaptureTakesTheFirstProposal) {
  emulation::cublas_lt.proposals = {{3.0}, {2.0}};
  Random random(12);
  const auto matmul = Make(false);
  Case c({DType::kBF16, 20, 16, 32}, &random);
  cudaGraph_t graph = nullptr;
  EXPECT_CUDA_OK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  EXPECT_TRUE(matmul->Run(c.Arguments(), stream_).ok());
  EXPECT_CUDA_OK(cudaStreamEndCapture(stream_, &graph));
  EXPECT_CUDA_OK(cudaGraphDestroy(graph));
  EXPECT_EQ(emulation::cublas_lt.products, 1);
  EXPECT_EQ(emulation::cublas_lt.last_proposal, 0);
  Run(matmul.get(), &c);
  c.ExpectRight();
  EXPECT_EQ(emulation::cublas_lt.last_proposal, 1);
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

#endif  // PACKRAT_EMULATED

}  // namespace
}  // namespace packrat
