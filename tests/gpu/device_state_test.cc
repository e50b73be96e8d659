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
    EXPECT_EQ(state_->Read({{offset, 64}}, bytes.data()), absl::OkStatus());
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

// Many pieces, of which one is longer than what is read at once.
TEST_F(DeviceStateTest, ReadsManyPieces) {
  constexpr size_t kBytes = size_t{20} << 20;
  state_ = *AllocateDeviceState(kBytes, stream_);
  std::vector<std::byte> bytes(kBytes), expected;
  for (size_t i = 0; i < kBytes; ++i) bytes[i] = std::byte(i * 7 + i / 251);
  state_->Write(0, bytes.data(), kBytes);
  std::vector<StateBuffer::Piece> pieces = {{5, size_t{9} << 20}};
  for (size_t i = 0; i < 40; ++i) pieces.push_back({kBytes - (i + 1) * 300000, 250001});
  for (const StateBuffer::Piece& piece : pieces) {
    expected.insert(expected.end(), bytes.begin() + piece.from,
                    bytes.begin() + piece.from + piece.bytes);
  }
  std::vector<std::byte> read(expected.size());
  EXPECT_EQ(state_->Read(pieces, read.data()), absl::OkStatus());
  EXPECT_TRUE(read == expected);
}

TEST_F(DeviceStateTest, NothingIsOutsideAndCopiesDoNotOverlap) {
  std::byte byte{};
  EXPECT_DEATH(state_->Write(256, &byte, 1), "256 \\+ 1");
  EXPECT_DEATH(state_->Read({{~size_t{0}, 1}}, &byte).IgnoreError(), "\\+ 1");
  EXPECT_DEATH(state_->Copy(200, 0, 57), "200 \\+ 57");
  EXPECT_DEATH(state_->Copy(10, 19, 10), "10 and 19 are less than 10 apart");
}

}  // namespace
}  // namespace packrat
