#include <vector>

#include "tests/gpu/matmul_case.h"

namespace packrat {
namespace {

// What is multiplied, and how. format: of a quantised weight.
struct Mode {
  DType type;
  std::optional<DType> format;
  bool deterministic = true;
};
const std::pair<DType, std::optional<DType>> kOperands[] = {
    {DType::kF32, {}},           {DType::kBF16, {}},           {DType::kF32, DType::kInt8},
    {DType::kF32, DType::kInt4}, {DType::kBF16, DType::kInt8}, {DType::kBF16, DType::kInt4}};
std::vector<Mode> Modes(const std::vector<bool>& deterministic) {
  std::vector<Mode> modes;
  for (const auto& [type, format] : kOperands) {
    for (const bool d : deterministic) modes.push_back({type, format, d});
  }
  return modes;
}
std::string ModeName(const testing::TestParamInfo<Mode>& info) {
  const Mode& mode = info.param;
  return std::string(DTypeName(mode.type)) +
         (mode.format.has_value() ? std::string("By") + DTypeName(*mode.format) : "") +
         (mode.deterministic ? "Deterministic" : "");
}
// The shape, with the mode's operands. Rows of quantised weights are whole groups, and aligned.
Shape In(const Mode& mode, Shape shape) {
  shape.type = mode.type;
  shape.format = mode.format;
  if (!mode.format.has_value()) return shape;
  shape.in = (shape.in + kQuantGroup - 1) / kQuantGroup * kQuantGroup;
  shape.skip = 0;
  return shape;
}

// Sizes that fill tiles and chunks of the inner dimension, that do not, and that are smaller than
// any; inner sizes of which the rows cannot be moved 16 bytes at a time; rows for every kernel.
std::vector<Shape> Shapes(const Mode& mode) {
  const DType type = mode.type;
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
    s.scale = i % 3 == 2 ? -0.3f : 1.0f;
    s = In(mode, s);
  }
  return shapes;
}

class EveryModeTest : public MatMulGpuTest, public testing::WithParamInterface<Mode> {};
INSTANTIATE_TEST_SUITE_P(Modes, EveryModeTest, testing::ValuesIn(Modes({false, true})), ModeName);

TEST_P(EveryModeTest, MeetsTheReference) {
  Random random(1);
  const auto matmul = Make(GetParam().deterministic);
  for (const Shape& shape : Shapes(GetParam())) {
    SCOPED_TRACE(Describe(shape));
    Case c(shape, &random);
    Run(matmul.get(), &c);
    c.ExpectRight();
    if (HasFatalFailure()) return;
  }
}

// Of few rows, for each number of tiles of rows; and rows that cannot be moved 16 bytes at a time.
TEST_P(EveryModeTest, MoreTilesThanBlocksAtOnce) {
  Random random(6);
  const auto matmul = Make(GetParam().deterministic);
  for (const auto& [rows, in] : {std::pair(1, 136), {11, 72}, {30, 64}, {2, 75}}) {
    const Shape shape = In(GetParam(), {GetParam().type, rows, ManyOutputs(), in});
    SCOPED_TRACE(Describe(shape));
    Case c(shape, &random);
    Run(matmul.get(), &c);
    c.ExpectRight();
    if (HasFatalFailure()) return;
  }
}

// Bias, accumulation and the type of y in all combinations, for a kernel of each kind.
TEST_P(EveryModeTest, EveryEpilogue) {
  const DType type = GetParam().type;
  Random random(2);
  const auto matmul = Make(GetParam().deterministic);
  for (const int rows : {3, 12, 40}) {
    for (const bool bias : {false, true}) {
      for (const bool accumulate : {false, true}) {
        for (const DType y_type : {DType::kF32, type}) {
          if (accumulate && y_type != DType::kF32) continue;
          const Shape shape = In(GetParam(), {type, rows, 21, 48, y_type, bias, accumulate});
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
  const DType type = GetParam().type;
  Random random(3);
  const auto matmul = Make(GetParam().deterministic);
  for (const int rows : {4, 14, 30, 130}) {  // A kernel for each, and all stages of its pipeline.
    const Shape shape = In(GetParam(), {type, rows, 20, 584});
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
  const DType type = GetParam().type;
  Random random(4);
  const auto matmul = Make(GetParam().deterministic);
  for (const int rows : {2, 11, 40, 70}) {
    const Shape shape = In(GetParam(), {type, rows, 18, 72});
    Case c(shape, &random);
    const std::vector<float> clean = Run(matmul.get(), &c);
    std::vector<float> x = c.x();
    const int bad = rows / 2;
    x[bad * shape.in + 40] = kNaN;
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

// A graph captured once serves other contents of the same memory.
TEST_P(EveryModeTest, IsCaptured) {
  const DType type = GetParam().type;
  Random random(5);
  const auto matmul = Make(GetParam().deterministic);
  for (const int rows : {1, 20}) {
    Case c(In(GetParam(), {type, rows, 24, 64, DType::kF32, true, true}), &random);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    Run(matmul.get(), &c);
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
  const DType type = GetParam().type;
  Random random(6);
  const auto matmul = Make(GetParam().deterministic);
  Case c(In(GetParam(), {type, 2, 8, 8}), &random);
  EXPECT_TRUE(matmul->Run(c.Arguments(0, 0), stream_).ok());
  Wait();
  for (const float v : c.Y()) EXPECT_TRUE(std::isnan(v));
}

// Rows alone, in pairs and in companies for which other kernels are chosen, against all together.
class RowsTest : public MatMulGpuTest, public testing::WithParamInterface<Mode> {
 protected:
  void ExpectSameInPieces(gpu::MatMul* matmul, const Shape& plain, const std::vector<int>& pieces) {
    const Shape shape = In(GetParam(), plain);
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
INSTANTIATE_TEST_SUITE_P(Modes, RowsTest, testing::ValuesIn(Modes({true})), ModeName);

TEST_P(RowsTest, ARowAloneHasTheBitsOfTheRowInCompany) {
  const DType type = GetParam().type;
  // By default too, where neither the library multiplies by them nor the kernel for few rows has an
  // order of its own.
  for (const bool deterministic : {true, false}) {
    if (!deterministic && (!GetParam().format.has_value() || type == DType::kF32)) continue;
    const auto matmul = Make(deterministic);
    // Of 300 or 130 rows tiles are made, of 70 with few outputs not.
    ExpectSameInPieces(matmul.get(), {type, 300, 130, 72, DType::kF32, true, true}, {7, 64, 130});
    // Parts of several chunks, the last one a half; outputs of two tiles.
    ExpectSameInPieces(matmul.get(), {type, 300, 150, 1096, DType::kF32, true, true},
                       {7, 30, 64, 130});
    ExpectSameInPieces(matmul.get(), {type, 70, 9, 1096, type, true}, {1, 7, 12, 30, 64});
    ExpectSameInPieces(matmul.get(), {type, 70, 9, 75}, {1, 12, 40});
    ExpectSameInPieces(matmul.get(), {type, 70, 8, 64, DType::kF32, false, false, 1}, {1, 40});
  }
}

TEST_P(RowsTest, OneToEightRowsHaveTheSameBitsByDefault) {
  const DType type = GetParam().type;
  const auto matmul = Make(false);
  for (const int rows : {2, 3, 5, 8}) {
    ExpectSameInPieces(matmul.get(), {type, rows, 37, 600}, {1, 2, 4});
    ExpectSameInPieces(matmul.get(), {type, rows, 5, 75}, {1, 4});
  }
}

// In float32 it is the CPU's chain, to the bit.
TEST_P(RowsTest, InFloat32QuantisedWeightsGiveTheChainOfTheCpu) {
  if (GetParam().type != DType::kF32 || !GetParam().format.has_value()) return;
  Random random(8);
  const auto matmul = Make(true);
  for (const int rows : {1, 40}) {
    const Shape shape = In(GetParam(), {DType::kF32, rows, 21, 160});
    Case c(shape, &random);
    const std::vector<float> y = Run(matmul.get(), &c);
    for (int r = 0; r < rows; ++r) {
      for (int o = 0; o < shape.out; ++o) {
        float sum = 0;
        for (int k = 0; k < shape.in; ++k) {
          sum = std::fma(c.x()[r * shape.in + k], c.weights()[o * shape.in + k], sum);
        }
        EXPECT_TRUE(SameBits(&sum, &y[r * shape.out + o], 1)) << "row " << r << " output " << o;
      }
    }
  }
}

}  // namespace
}  // namespace packrat
