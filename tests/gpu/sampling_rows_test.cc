#include "models/gpu/sampling_rows.h"

#include <vector>

#include "tests/gpu/gpu.h"

namespace packrat {
namespace {

class SamplingRowsTest : public GpuTest {};

// Two steps are queued before the results of the first are looked at; for the second one's list the
// memory has to grow.
TEST_F(SamplingRowsTest, ListsThatGrowTheMemoryLeaveTheStepBeforeAsItIs) {
  constexpr int kVocab = 8, kPlaces = 2;
  std::vector<float> logits;
  for (int i = 0; i < kPlaces * kVocab; ++i) logits.push_back(static_cast<float>(i % kVocab));
  DeviceArray<float> device_logits[2] = {DeviceArray<float>(logits), DeviceArray<float>(logits)};

  auto rows = gpu::SamplingRows::Create(kPlaces);
  ASSERT_TRUE(rows.ok()) << rows.status();
  const std::vector<int32_t> few = {7};
  std::vector<int32_t> many(400'000, 7);
  many.back() = 6;
  const auto step = [&](int turn, const std::vector<int32_t>& banned) {
    SamplingRow row;
    row.num_ids = kVocab;
    row.banned = banned;
    bool moved = false;
    EXPECT_TRUE((*rows)->Reserve(SamplingListBytes(row), stream_, &moved).ok());
    EXPECT_TRUE((*rows)->Upload({row}, kPlaces, turn, stream_).ok());
    EXPECT_TRUE((*rows)->Launch(kPlaces, kVocab, device_logits[turn].data(), stream_).ok());
    EXPECT_TRUE((*rows)->Download(1, turn, stream_).ok());
    return moved;
  };
  EXPECT_FALSE(step(0, few));
  EXPECT_TRUE(step(1, many));
  EXPECT_GE((*rows)->bytes(), many.size() * sizeof(int32_t));
  Wait();
  EXPECT_EQ((*rows)->results(0)->status, SampledToken::Status::kOk);
  EXPECT_EQ((*rows)->results(0)->token, 6);
  EXPECT_EQ((*rows)->results(1)->token, 5);
  EXPECT_FALSE(step(0, many)) << "grown twice";
  Wait();
  EXPECT_EQ((*rows)->results(0)->token, 5);
}

TEST_F(SamplingRowsTest, MoreThanCanBePackedIsRefused) {
  auto rows = gpu::SamplingRows::Create(1);
  ASSERT_TRUE(rows.ok()) << rows.status();
  const size_t bytes = (*rows)->bytes();
  bool moved = true;
  const absl::Status status = (*rows)->Reserve(gpu::kMostPackedBytes, stream_, &moved);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_FALSE(moved);
  EXPECT_EQ((*rows)->bytes(), bytes);
}

#ifdef PACKRAT_EMULATED

TEST_F(SamplingRowsTest, WithoutMemoryEverythingStaysAsItWas) {
  auto rows = gpu::SamplingRows::Create(1);
  ASSERT_TRUE(rows.ok()) << rows.status();
  const size_t bytes = (*rows)->bytes(), memory = emulation::machine.memory;
  size_t free = 0, total = 0;
  EXPECT_CUDA_OK(cudaMemGetInfo(&free, &total));
  // There is room for what is needed, but not for twice what there was.
  constexpr size_t kNeeded = 3000;
  ASSERT_LT(kNeeded, 2 * (bytes - sizeof(SampledToken)));
  emulation::machine.memory = memory - free + kNeeded / 2;
  bool moved = true;
  absl::Status status = (*rows)->Reserve(kNeeded, stream_, &moved);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_FALSE(moved);
  EXPECT_EQ((*rows)->bytes(), bytes);
  emulation::machine.memory = memory - free + kNeeded + 200;
  status = (*rows)->Reserve(kNeeded, stream_, &moved);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(moved);
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess) << "left for the next launch to find";
  emulation::machine.memory = memory;
}

#endif  // PACKRAT_EMULATED

}  // namespace
}  // namespace packrat
