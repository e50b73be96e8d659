// What a GPU does in one launch where it can, against its operations one after the other.
#include "models/gpu/device.h"

#include <vector>

#include "tests/gpu/matmul_case.h"

namespace packrat {
namespace {

constexpr int kWidth = 24;
constexpr float kEps = 1e-5f, kScale = 0.5f;

// The operands of a layer with a gated linear unit.
class GluLayer {
 public:
  GluLayer(Random* random, int rows, int in)
      : rows_(rows),
        x_(random->Normals(size_t{1} * rows * in)),
        norm_(random->Normals(in, 0.3f, 1.0f)),
        up_bias_(random->Normals(2 * kWidth)),
        up_(DType::kBF16, random->Normals(size_t{2} * kWidth * in)),
        down_(DType::kBF16, random->Normals(size_t{1} * in * kWidth)),
        h_(DType::kBF16, random->Normals(x_.size())),
        gate_up_(DType::kBF16, size_t{2} * rows * kWidth),
        inner_(DType::kBF16, size_t{1} * rows * kWidth),
        residual_(x_.size()),
        weights_{{up_.data(), DType::kBF16, 2 * kWidth, in},
                 up_bias_.data(),
                 {},
                 {down_.data(), DType::kBF16, in, kWidth},
                 nullptr} {}

  // What is left in the residual stream, which is the norm's input too.
  std::vector<float> Together(gpu::GpuDevice* device, bool normed) {
    residual_.Set(x_);
    const absl::Status status =
        device->AddGlu(Input(normed), weights_, rows_, gate_up_.data(), inner_.data(), To());
    EXPECT_TRUE(status.ok()) << status;
    return Result(device);
  }
  std::vector<float> Apart(gpu::GpuDevice* device, bool normed) {
    residual_.Set(x_);
    const Normed h = Input(normed);
    const int in = weights_.up.in;
    absl::Status status = absl::OkStatus();
    if (normed) status = device->Norm(h.x, nullptr, rows_, in, h.weight, kEps, h.memory);
    if (status.ok()) {
      status = device->Multiply(h.memory, rows_,
                                {{weights_.up, gate_up_.data(), DType::kBF16, weights_.up_bias}});
    }
    if (status.ok()) {
      status = device->Glu(weights_.gating, gate_up_.data(), rows_, kWidth, inner_.data());
    }
    if (status.ok()) {
      status = device->AddProduct(weights_.down, inner_.data(), rows_, nullptr, To());
    }
    EXPECT_TRUE(status.ok()) << status;
    return Result(device);
  }

 private:
  Normed Input(bool normed) const {
    const float* weight = normed ? norm_.data() : nullptr;
    return {residual_.data(), weights_.up.in, weight, kEps, h_.data()};
  }
  Residual To() const { return {residual_.data(), kScale}; }
  std::vector<float> Result(gpu::GpuDevice* device) const {
    EXPECT_CUDA_OK(cudaStreamSynchronize(device->stream()));
    return residual_.Get();
  }

  const int rows_;
  const std::vector<float> x_;
  DeviceArray<float> norm_, up_bias_;
  Stored up_, down_, h_, gate_up_, inner_;
  DeviceArray<float> residual_;
  const GluWeights weights_;
};

class GpuDeviceTest : public MatMulGpuTest {};

// Rows for one launch, for a norm before it (of more than 2,560 inputs eight rows have no room in
// shared memory), and for every operation by itself.
TEST_F(GpuDeviceTest, AGatedUnitHasTheBitsOfItsOperations) {
  const auto info = gpu::OpenDevice();
  ASSERT_TRUE(info.ok()) << info.status();
  gpu::GpuDevice device(*info, Limits(), DType::kBF16, DType::kF32);
  ASSERT_TRUE(device.Open(/*deterministic=*/true).ok());
  Random random(1);
  for (const int in : {64, 2600}) {
    for (const int rows : {1, 8, 9}) {
      GluLayer layer(&random, rows, in);
      for (const bool normed : {false, true}) {
        EXPECT_TRUE(SameBits(layer.Together(&device, normed), layer.Apart(&device, normed)))
            << rows << " rows of " << in << (normed ? " normed" : "");
      }
    }
  }
}

// Attention of equal kinds has one list of work, and each dial of RAT+ has one of its own.
TEST_F(GpuDeviceTest, ListsOfWorkGoByTheKindOfLayer) {
  Limits limits;
  limits.tokens = limits.spans = 4;
  gpu::GpuDevice device(gpu::DeviceInfo(), limits, DType::kBF16, DType::kF32);
  const int rat = device.Plan(RatShape{2, 1, 16, 16});
  const int dial = device.Plan(RatPlusShape{2, 16, 16, 8, 4});
  const int other = device.Plan(RatPlusShape{2, 16, 16, 8, 5});
  EXPECT_EQ(device.Plan(RatShape{2, 1, 16, 16}), rat);
  EXPECT_EQ(device.Plan(RatPlusShape{2, 16, 16, 8, 4}), dial);
  EXPECT_NE(dial, other);
  ASSERT_EQ(device.attend_kinds().size(), 3u);
  EXPECT_FALSE(device.attend_kinds()[0].rat_plus());
  EXPECT_EQ(device.attend_kinds()[1].shape.sinks, 4);
  EXPECT_EQ(device.attend_kinds()[2].shape.sinks, 5);
}

}  // namespace
}  // namespace packrat
