// State on the device: what the host does to it keeps its place between the steps.
#include "models/gpu/device_state.h"

#include <memory>
#include <vector>

#include "tests/gpu/gpu.h"

namespace packrat {
namespace {

using gpu::AllocateDeviceState;

class DeviceStateTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    auto state = AllocateDeviceState(256, stream_);
    ASSERT_TRUE(state.ok()) << state.status();
    state_ = *std::move(state);
  }
  void TearDown() override {
    state_.reset();
    GpuTest::TearDown();
  }
  // A step, which may be far from done when it returns, sets 64 bytes.
  void Step(size_t offset, unsigned char value) {
    EXPECT_CUDA_OK(cudaMemsetAsync(state_->data() + offset, value, 64, stream_));
  }
  std::vector<std::byte> Read(size_t offset) {
    std::vector<std::byte> bytes(64);
    EXPECT_EQ(state_->Read(offset, bytes.data(), 64), absl::OkStatus());
    return bytes;
  }
  static std::vector<std::byte> All(unsigned char value) {
    return std::vector<std::byte>(64, std::byte{value});
  }

  std::unique_ptr<StateBuffer> state_;
};

TEST_F(DeviceStateTest, CopiesLieBetweenTheStepsBeforeAndAfter) {
  Step(0, 1);
  state_->Copy(0, 128, 64);
  Step(0, 2);
  EXPECT_EQ(Read(128), All(1));
  EXPECT_EQ(Read(0), All(2));
}

TEST_F(DeviceStateTest, FillsLieBetweenTheStepsBeforeAndAfter) {
  Step(0, 1);
  Step(64, 1);
  state_->Fill(0, 128, 2);
  Step(64, 3);
  EXPECT_EQ(Read(0), All(2));
  EXPECT_EQ(Read(64), All(3));
}

TEST_F(DeviceStateTest, WritesLieBetweenTheStepsBeforeAndAfterAndKeepNoHoldOfTheirSource) {
  std::vector<std::byte> source = All(5);
  Step(0, 1);
  state_->Write(0, source.data(), 64);
  state_->Copy(0, 128, 64);
  Step(0, 2);
  source = All(6);
  EXPECT_EQ(Read(0), All(2));
  EXPECT_EQ(Read(128), All(5));
}

TEST_F(DeviceStateTest, ReadsWaitForTheStepsBefore) {
  for (unsigned char value = 1; value < 4; ++value) {
    Step(64, value);
    EXPECT_EQ(Read(64), All(value));
  }
}

TEST_F(DeviceStateTest, NothingIsOutsideAndCopiesDoNotOverlap) {
  std::byte byte{};
  EXPECT_DEATH(state_->Write(256, &byte, 1), "256 \\+ 1");
  EXPECT_DEATH(state_->Read(~size_t{0}, &byte, 1).IgnoreError(), "\\+ 1");
  EXPECT_DEATH(state_->Copy(200, 0, 57), "200 \\+ 57");
  EXPECT_DEATH(state_->Copy(10, 19, 10), "10 and 19 are less than 10 apart");
}

}  // namespace
}  // namespace packrat
