#include "kernels/check.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <string>

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

// Puts a pipe of one page in the place of standard error; returns its other end.
int PipeAsStandardError() {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  EXPECT_EQ(fcntl(ends[1], F_SETPIPE_SZ, 4096), 4096);
  EXPECT_EQ(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
  alarm(30);  // Who hangs dies of another signal.
  return ends[0];
}

TEST(CheckDeathTest, DiesThoughNobodyReadsStandardError) {
  const auto full = [] {
    PipeAsStandardError();
    const std::string page(4096, '.');
    EXPECT_EQ(write(STDERR_FILENO, page.data(), page.size()), 4096);
    PACKRAT_CHECK(false);
  };
  const auto longer_than_the_pipe = [] {
    PipeAsStandardError();
    PACKRAT_CHECK(false) << std::string(10000, '.');
  };
  EXPECT_EXIT(full(), testing::KilledBySignal(SIGABRT), "");
  EXPECT_EXIT(longer_than_the_pipe(), testing::KilledBySignal(SIGABRT), "");
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
