// Products that make what stands beside them, against the operations one after the other.
#include "kernels/matmul_fused.h"

#include <vector>

#include "kernels/elementwise.h"
#include "tests/gpu/matmul_case.h"

namespace packrat {
namespace {

constexpr float kEps = 1e-5f;

// A norm's operands, and memory for what it makes.
struct NormCase {
  NormCase(Random* random, int rows, int n)
      : values(random->Normals(size_t{1} * rows * n, 3.0f)),
        x(values),
        weight(random->Normals(n, 0.3f, 1.0f)),
        y(DType::kBF16, values.size()) {}
  std::vector<float> values;
  DeviceArray<float> x, weight;
  Stored y;
};

class MatMulFusedTest : public MatMulGpuTest {
 protected:
  // The case's product; norm may be null.
  static gpu::FusedProduct Fused(const Case& c, const NormCase* norm) {
    gpu::FusedProduct fused{c.Arguments()};
    if (norm == nullptr) return fused;
    fused.product.x = nullptr;
    fused.norm_x = norm->x.data(), fused.norm_weight = norm->weight.data(), fused.norm_eps = kEps;
    return fused;
  }
  void Multiply(const gpu::FusedProduct& fused) {
    EXPECT_TRUE(gpu::MultiplyFused(fused, stream_).ok());
    Wait();
  }
  std::vector<float> Together(Case* c, const NormCase& norm) {
    c->Reset();
    Multiply(Fused(*c, &norm));
    return c->Y();
  }
  std::vector<float> Apart(gpu::MatMul* matmul, Case* c, const NormCase* norm) {
    c->Reset();
    gpu::MatMulArguments m = c->Arguments();
    if (norm != nullptr) {
      EXPECT_TRUE(gpu::RmsNorm(norm->x.data(), m.rows, m.weight->in, norm->weight.data(), kEps,
                               norm->y.data(), DType::kBF16, stream_)
                      .ok());
      m.x = norm->y.data();
    }
    EXPECT_TRUE(matmul->Run(m, stream_).ok());
    Wait();
    return c->Y();
  }
};

// Inner sizes of less than a chunk, of a chunk and a piece, of all the norm's chains and one more
// group; every epilogue; and many outputs.
std::vector<Shape> NormedShapes(int many) {
  std::vector<Shape> shapes = {{DType::kBF16, 1, many, 136}, {DType::kBF16, 5, many, 64}};
  for (const int in : {8, 72, 2048, 2056}) {
    for (int rows = 1; rows <= 8; ++rows) {
      Shape shape = {DType::kBF16, rows, 21, in};
      shape.bias = rows % 2 == 1;
      shape.y_type = rows % 3 == 1 ? DType::kBF16 : DType::kF32;
      shape.accumulate = rows % 3 == 2;
      shape.scale = rows % 4 == 0 ? -0.3f : 1.0f;
      shapes.push_back(shape);
    }
  }
  return shapes;
}

TEST_F(MatMulFusedTest, WithItsNormItHasTheBitsOfBoth) {
  Random random(1);
  for (const bool deterministic : {false, true}) {
    const auto matmul = Make(deterministic);
    for (const Shape& shape : NormedShapes(ManyOutputs())) {
      SCOPED_TRACE(Describe(shape));
      Case c(shape, &random);
      const NormCase norm(&random, shape.rows, shape.in);
      const std::vector<float> apart = Apart(matmul.get(), &c, &norm);
      ForEachOrder([&] { EXPECT_TRUE(SameBits(apart, Together(&c, norm))); });
    }
  }
}

struct Gated {
  int rows, in, width;
  Gating gating;
  bool bias, normed;
};

// Widths of one block, of blocks and a piece, and of a large model; every epilogue, with every
// function and with a norm and without.
std::vector<Gated> GatedShapes() {
  std::vector<Gated> shapes;
  for (const GateFunction function : {GateFunction::kSilu, GateFunction::kGeluTanh}) {
    for (const bool normed : {false, true}) {
      for (const bool bias : {false, true}) {
        for (const int rows : {1, 3, 8}) {
          shapes.push_back({rows, 72, 8, {function, bias ? 0.35f : 1.0f}, bias, normed});
          shapes.push_back({rows, 1096, 21, {function, bias ? 1.0f : -2.0f}, bias, normed});
        }
      }
      shapes.push_back({2, 64, 5632, {function, 0.5f}, true, normed});
    }
  }
  return shapes;
}

TEST_F(MatMulFusedTest, WithItsGatingItHasTheBitsOfBoth) {
  Random random(5);
  const auto matmul = Make(false);
  for (const Gated& s : GatedShapes()) {
    Shape shape = {DType::kBF16, s.rows, 2 * s.width, s.in, DType::kBF16, s.bias};
    if (s.rows == 3) shape.scale = -0.3f;
    SCOPED_TRACE(testing::Message() << Describe(shape) << (s.normed ? " normed" : "")
                                    << " function " << static_cast<int>(s.gating.function));
    Case c(shape, &random);
    const NormCase norm(&random, s.rows, s.in);
    const NormCase* with = s.normed ? &norm : nullptr;
    const size_t size = size_t{1} * s.rows * s.width;
    Apart(matmul.get(), &c, with);
    const Stored apart(DType::kBF16, size);
    EXPECT_TRUE(
        gpu::Glu(s.gating, c.Arguments().y, s.rows, s.width, apart.data(), DType::kBF16, stream_)
            .ok());
    Wait();
    gpu::FusedProduct fused = Fused(c, with);
    fused.gating = &s.gating;
    ForEachOrder([&] {
      const Stored together(DType::kBF16, size);
      fused.product.y = together.data();
      Multiply(fused);
      EXPECT_TRUE(SameBits(apart.Get(), together.Get()));
    });
  }
}

TEST_F(MatMulFusedTest, NaNStaysInItsRow) {
  Random random(2);
  for (const int rows : {2, 5, 8}) {
    const Shape shape = {DType::kBF16, rows, 18, 72};
    Case c(shape, &random);
    NormCase norm(&random, rows, shape.in);
    const std::vector<float> clean = Together(&c, norm);
    const int bad = rows / 2;
    norm.values[bad * shape.in + 40] = kNaN;
    norm.x.Set(norm.values);
    const std::vector<float> y = Together(&c, norm);
    for (int i = 0; i < rows * shape.out; ++i) {
      if (i / shape.out == bad) {
        EXPECT_TRUE(std::isnan(y[i])) << i;
      } else {
        EXPECT_TRUE(SameBits(&y[i], &clean[i], 1)) << i;
      }
    }
  }
}

TEST_F(MatMulFusedTest, NoRowsWriteNothing) {
  Random random(3);
  Case c({DType::kBF16, 2, 8, 8}, &random);
  const NormCase norm(&random, 2, 8);
  gpu::FusedProduct fused = Fused(c, &norm);
  fused.product.rows = 0;
  EXPECT_TRUE(gpu::MultiplyFused(fused, stream_).ok());
  Wait();
  for (const float v : c.Y()) EXPECT_TRUE(std::isnan(v));
}

TEST_F(MatMulFusedTest, WhatItCannotItSays) {
  Random random(4);
  const auto can = [&](const Shape& shape, int norm_skip = 0) {
    const Case c(shape, &random);
    const NormCase norm(&random, shape.rows, shape.in);
    gpu::FusedProduct fused = Fused(c, &norm);
    fused.norm_x += norm_skip;
    return gpu::CanMultiplyFused(fused);
  };
  EXPECT_TRUE(can({DType::kBF16, 8, 8, 2048}));
  EXPECT_FALSE(can({DType::kBF16, 9, 8, 64}));
  // Shared memory has room for so much.
  EXPECT_TRUE(can({DType::kBF16, 4, 8, 4096}));
  EXPECT_FALSE(can({DType::kBF16, 5, 8, 4096}));
  // Rows that cannot be moved 16 bytes at a time.
  EXPECT_FALSE(can({DType::kBF16, 1, 8, 20}));
  EXPECT_FALSE(can({DType::kBF16, 1, 8, 64, DType::kF32, false, false, 1}));
  EXPECT_FALSE(can({DType::kBF16, 1, 8, 64}, 1));
  // Nothing beside the product, or what is no gated unit in bfloat16.
  const Case plain({DType::kBF16, 1, 8, 64}, &random);
  EXPECT_FALSE(gpu::CanMultiplyFused(Fused(plain, nullptr)));
  const auto can_gate = [&](const Shape& shape) {
    const Case c(shape, &random);
    gpu::FusedProduct fused = Fused(c, nullptr);
    const Gating gating;
    fused.gating = &gating;
    return gpu::CanMultiplyFused(fused);
  };
  EXPECT_TRUE(can_gate({DType::kBF16, 8, 42, 4096, DType::kBF16}));
  EXPECT_FALSE(can_gate({DType::kBF16, 8, 43, 64, DType::kBF16}));
  EXPECT_FALSE(can_gate({DType::kBF16, 8, 42, 64, DType::kF32}));
  // Other weights.
  EXPECT_FALSE(can({DType::kF32, 1, 8, 64}));
  for (const DType format : {DType::kInt8, DType::kInt4}) {
    Shape shape = {DType::kBF16, 1, 16, 64};
    shape.format = format;
    EXPECT_FALSE(can(shape));
  }
}

}  // namespace
}  // namespace packrat
