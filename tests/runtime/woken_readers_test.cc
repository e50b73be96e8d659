#include "runtime/woken_readers.h"

#include "gtest/gtest.h"

namespace packrat {
namespace {

using absl::Microseconds;
using absl::Milliseconds;
using absl::ZeroDuration;

TEST(ReadersTime, IsATwentiethOfTheStepsTime) {
  ReadersTime time;
  EXPECT_EQ(time.After(Milliseconds(20), false), Milliseconds(1));
  EXPECT_EQ(time.After(Milliseconds(20), false), Milliseconds(2));  // They were quick.
  time.Spend(Microseconds(1500));
  EXPECT_EQ(time.After(Milliseconds(10), false), Milliseconds(1));
  // In the long run, whatever they take.
  absl::Duration waited;
  time.Spend(Milliseconds(1));
  for (int step = 0; step < 1000; ++step) {
    const absl::Duration most = time.After(Milliseconds(3), false);
    waited += most;
    time.Spend(most);
  }
  EXPECT_EQ(waited, Milliseconds(150));
}

TEST(ReadersTime, IsSavedUpToABound) {
  ReadersTime time;
  EXPECT_EQ(time.After(absl::Seconds(5), false), Milliseconds(10));
  time.Spend(Milliseconds(4));
  EXPECT_EQ(time.After(Milliseconds(1), false), Milliseconds(6) + Microseconds(50));
}

TEST(ReadersTime, LessThanATenthOfAMillisecondIsNotWaited) {
  ReadersTime time;
  EXPECT_EQ(time.After(Microseconds(1999), false), ZeroDuration());
  EXPECT_EQ(time.After(Milliseconds(1), false), Microseconds(149) + absl::Nanoseconds(950));
  // What was spent beyond it comes off.
  time.Spend(Milliseconds(1));
  EXPECT_EQ(time.After(Milliseconds(10), false), ZeroDuration());
}

TEST(ReadersTime, AfterAShortStepOnlyForThoseWhoAreLate) {
  ReadersTime time;
  EXPECT_EQ(time.After(Milliseconds(100), false), Milliseconds(5));
  EXPECT_EQ(time.After(Microseconds(999), false), ZeroDuration());
  EXPECT_GT(time.After(Microseconds(999), true), Milliseconds(5));
}

TEST(WokenReaders, AreWaitedForUntilAllHaveSettled) {
  WokenReaders readers;
  EXPECT_EQ(readers.Wait(absl::Seconds(60)), ZeroDuration());
  readers.NextStep();
  const uint64_t step = readers.Add();
  EXPECT_EQ(readers.Add(), step);
  readers.Settle(step);
  EXPECT_GE(readers.Wait(Milliseconds(2)), Milliseconds(2));  // One is left.
  readers.Settle(step);
  EXPECT_EQ(readers.Wait(absl::Seconds(60)), ZeroDuration());
}

TEST(WokenReaders, WhoSettlesForAStepBeforeIsNotCounted) {
  WokenReaders readers;
  const uint64_t before = readers.Add();
  readers.NextStep();
  const uint64_t step = readers.Add();
  EXPECT_NE(before, step);
  readers.Settle(before);
  EXPECT_GE(readers.Wait(Milliseconds(2)), Milliseconds(2));
  readers.Settle(step);
  EXPECT_EQ(readers.Wait(absl::Seconds(60)), ZeroDuration());
}

}  // namespace
}  // namespace packrat
