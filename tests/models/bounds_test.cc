// Ranges as they are checked and shown.
#include "models/bounds.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace packrat {
namespace {

constexpr Bound kClosed = {"f", -1, 2}, kNotLow = {"f", 0, 1, Bound::kNotLow},
                kNotHigh = {"f", 0, 1, Bound::kNotHigh},
                kCounted = {"f", 1, 16, Bound::kBoth, "strings"};

TEST(Bound, EndsBelongToItOrNot) {
  EXPECT_TRUE(kClosed.Holds(-1) && kClosed.Holds(2));
  EXPECT_FALSE(kClosed.Holds(-1.001) || kClosed.Holds(2.001));
  EXPECT_TRUE(!kNotLow.Holds(0) && kNotLow.Holds(1e-30) && kNotLow.Holds(1));
  EXPECT_TRUE(kNotHigh.Holds(0) && kNotHigh.Holds(0.999) && !kNotHigh.Holds(1));
  for (const Bound& bound : {kClosed, kNotLow, kNotHigh}) EXPECT_FALSE(bound.Holds(std::nan("")));
}

TEST(Bound, IsShownAsARange) {
  EXPECT_EQ(kClosed.Range(), "[-1, 2]");
  EXPECT_EQ(kNotLow.Range(), "(0, 1]");
  EXPECT_EQ(kNotHigh.Range(), "[0, 1)");
  EXPECT_EQ((Bound{"f", 1e-7, 0.1}.Range()), "[1e-7, 0.1]");
  EXPECT_EQ((Bound{"f", 0, bounds::kOpen}.UpTo(77).Range()), "[0, 77]");
  EXPECT_EQ(kCounted.UpTo(3).Check("n", 4).message(), "n has 4 strings; range [1, 3]");
}

TEST(Bound, ChecksWithNameValueAndRange) {
  EXPECT_TRUE(kClosed.Check("name", 2).ok());
  const absl::Status status = kClosed.Check("name", 2.5, " (why)");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "name is 2.5; range [-1, 2] (why)");
  EXPECT_EQ(kClosed.Check("name", bounds::kOpen).message(), "name is inf; range [-1, 2]");
  EXPECT_EQ(kClosed.Check("name", 1e16).message(), "name is 1e+16; range [-1, 2]");
}

}  // namespace
}  // namespace packrat
