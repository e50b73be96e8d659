#include "models/gpu/sampling_rows.h"

#include <vector>

#include "tests/gpu/gpu.h"

namespace packrat {
namespace {

class SamplingRowsTest : public GpuTest {};

// Two steps are queued before the results of the first are looked at; the second one's list is
// longer than any memory that there is for it.
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
    EXPECT_TRUE((*rows)->Upload({row}, kPlaces, turn, stream_, &moved).ok());
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

}  // namespace
}  // namespace packrat
