#include "kernels/check.h"

#include <gtest/gtest.h>

#include <map>

namespace packrat {
namespace {

TEST(Check, PassesWithoutEvaluatingTheMessage) {
  int evaluated = 0;
  auto message = [&] {
    ++evaluated;
    return "never";
  };
  int conditions = 0;
  PACKRAT_CHECK(++conditions == 1) << message();
  EXPECT_EQ(conditions, 1);
  EXPECT_EQ(evaluated, 0);
}

TEST(CheckDeathTest, SaysWhereAndWhat) {
  const int slot = 7;
  EXPECT_DEATH(PACKRAT_CHECK(slot < 3), "check_test.cc:[0-9]+: check failed: slot < 3");
  EXPECT_DEATH(PACKRAT_CHECK(slot < 3, "freed twice"), "slot < 3: freed twice");
  EXPECT_DEATH(PACKRAT_CHECK(slot < 3) << "slot " << slot, "slot < 3 slot 7");
}

TEST(Check, IsOneStatement) {
  bool otherwise = false;
  if (!otherwise)
    PACKRAT_CHECK(true);
  else
    otherwise = true;
  EXPECT_FALSE(otherwise);
}

}  // namespace
}  // namespace packrat
