#include "runtime/retry_after.h"

#include <gtest/gtest.h>

namespace packrat {
namespace {

// With the numbers themselves: clients wait by them.
TEST(RetryAfter, IsCarriedByTheStatusWithinBounds) {
  const absl::Status plain = absl::ResourceExhaustedError("full");
  const auto told = [&](absl::Duration after) { return RetryAfter(WithRetryAfter(plain, after)); };
  EXPECT_EQ(RetryAfter(plain), absl::Seconds(1));
  EXPECT_EQ(told(absl::Milliseconds(1234)), absl::Milliseconds(1234));
  EXPECT_EQ(told(absl::ZeroDuration()), absl::Milliseconds(500));
  EXPECT_EQ(told(absl::Seconds(-3)), absl::Milliseconds(500));
  EXPECT_EQ(told(absl::InfiniteDuration()), absl::Minutes(1));
  EXPECT_EQ(WithRetryAfter(plain, absl::Seconds(3)).message(), "full");
}

}  // namespace
}  // namespace packrat
