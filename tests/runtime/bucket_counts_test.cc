#include "runtime/bucket_counts.h"

#include <cstdint>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace packrat {
namespace {

using ::testing::ElementsAre;

constexpr double kBounds[] = {1, 2, 4};

TEST(BucketCounts, AnUpperEndBelongsToItsBucket) {
  BucketCounts counts(kBounds);
  for (double value : {0.0, 1.0, 1.5, 2.0, 2.0, 4.0, 4.5, 100.0}) counts.Observe(value);
  std::vector<int64_t> seen;
  for (size_t i = 0; i <= counts.bounds().size(); ++i) seen.push_back(counts.count(i));
  EXPECT_THAT(seen, ElementsAre(2, 3, 1, 2));
  EXPECT_EQ(counts.sum(), 115);
}

TEST(BucketCounts, ACopyIsOfItsTime) {
  BucketCounts counts(kBounds);
  counts.Observe(2);
  const BucketCounts copy = counts;
  counts.Observe(2);
  EXPECT_EQ(copy.count(1), 1);
  EXPECT_EQ(copy.sum(), 2);
  EXPECT_EQ(counts.count(1), 2);
}

TEST(BucketCounts, TheBoundsReachAsFarAsWhatTheyCount) {
  EXPECT_EQ(kSecondsBounds[0], 0.0005);
  EXPECT_EQ(kBatchTokensBounds.back(), 65536);    // The most that --max_batch_tokens may be.
  EXPECT_EQ(kBatchSequencesBounds.back(), 4096);  // And --max_running.
  for (size_t i = 0; i < std::size(kTokensBounds); ++i) EXPECT_EQ(kTokensBounds[i], 1 << i);
}

}  // namespace
}  // namespace packrat
