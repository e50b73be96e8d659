// Who is admitted before whom.
#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/scheduler.h"
#include "tests/runtime/scheduler_fixture.h"

namespace packrat {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST_F(SchedulerTest, HigherPriorityGoesFirst) {
  max_running_ = 2;
  Wait(5, 1);
  Wait(5, 1, /*priority=*/-1);
  Wait(5, 1, /*priority=*/7);
  Wait(5, 1, /*priority=*/7);
  EXPECT_THAT((Plan(), Admitted()), ElementsAre(2, 3));
}

// A flow that never ends has all places but those that waiting gives to the other.
TEST_F(SchedulerTest, WaitingCountsAsPriority) {
  constexpr int kLevels = 100;
  max_running_ = 1;
  const uint64_t low = Wait(5, {.priority = -kLevels});
  absl::Time now = kNow;
  int admitted = 0;
  for (;; now += absl::Milliseconds(10)) {
    Wait(5, {.arrived = now});
    const std::vector<uint64_t> numbers = Take(now);
    ASSERT_EQ(numbers.size(), 1u);
    ++admitted;
    if (numbers[0] == low) break;
    ASSERT_LT(now - kNow, kLevels * kPriorityStep);
  }
  EXPECT_EQ(now - kNow, kLevels * kPriorityStep);
  EXPECT_GT(admitted, 1900);  // Until then the others have them all.
  // The next of that flow waits as long again, however long it has been there.
  const uint64_t next = Wait(5, {.priority = -kLevels, .arrived = kNow});
  waiting_[{0, -kLevels}].last_admission = now;
  now += absl::Milliseconds(10);
  Wait(5, {.arrived = now});
  EXPECT_NE(Take(now)[0], next);
}

TEST_F(SchedulerTest, TenantsTakeTurns) {
  max_running_ = 1;
  std::vector<uint64_t> flood, second, third;
  for (int i = 0; i < 100; ++i) flood.push_back(Wait(50, {.tenant = 0}));
  for (int i = 0; i < 3; ++i) second.push_back(Wait(50, {.tenant = 1}));
  third.push_back(Wait(50, {.tenant = 2}));
  std::vector<uint64_t> order;
  for (int i = 0; i < 8; ++i) order.push_back(Take()[0]);
  EXPECT_THAT(order, ElementsAre(flood[0], second[0], third[0], flood[1], second[1], flood[2],
                                 second[2], flood[3]));
}

// Also where several are admitted in one step, and whatever the flood has waited.
TEST_F(SchedulerTest, AFloodDoesNotStarveAnotherTenant) {
  max_running_ = 4;
  for (int i = 0; i < 1000; ++i) Wait(50, {.tenant = 0, .arrived = kNow - absl::Hours(1)});
  tenants_[0].served = 5000;  // As it has for an hour.
  tenants_[1].served = 5000;
  std::vector<uint64_t> other;
  for (int i = 0; i < 2; ++i) other.push_back(Wait(50, {.tenant = 1}));
  EXPECT_THAT(Take(), ElementsAre(0, other[0], 1, other[1]));
}

TEST_F(SchedulerTest, TurnsAreOfTokensByWeight) {
  max_running_ = 1;
  tenants_ = {{1, 0}, {3, 0}};
  for (int i = 0; i < 200; ++i) Wait(90, {.tenant = 0, .output = 10});
  for (int i = 0; i < 200; ++i) Wait(30, {.tenant = 1, .output = 20});
  int64_t tokens[2] = {};
  for (int i = 0; i < 100; ++i) {
    const uint64_t number = Take()[0];
    tokens[number < 200 ? 0 : 1] += number < 200 ? 100 : 50;
  }
  EXPECT_NEAR(static_cast<double>(tokens[1]) / static_cast<double>(tokens[0]), 3, 0.2);
}

TEST_F(SchedulerTest, TurnsWithinAStepAreByWeight) {
  tenants_ = {{1, 0}, {3, 0}};
  for (int i = 0; i < 8; ++i) Wait(1, {.tenant = 0, .output = 99});
  for (int i = 0; i < 8; ++i) Wait(1, {.tenant = 1, .output = 99});
  const std::vector<uint64_t> numbers = Take();
  EXPECT_EQ(numbers.size(), 8u);
  EXPECT_EQ(std::count_if(numbers.begin(), numbers.end(), [](uint64_t n) { return n >= 8; }), 6);
}

TEST_F(SchedulerTest, APriorityIsAboveTurns) {
  max_running_ = 1;
  tenants_[1].served = 1e6;
  Wait(5, {.tenant = 0});
  const uint64_t high = Wait(5, {.priority = 1, .tenant = 1});
  EXPECT_EQ(Take()[0], high);
}

TEST_F(SchedulerTest, WhatDoesNotFitIsPassedOverForAWhile) {
  free_.pages[0] = 10;
  max_running_ = 100;
  budget_ = 1000;
  const uint64_t large = Wait(5, {.pages = 11});
  for (int i = 0; i < 3; ++i) Wait(5, {.pages = 1});
  Wait(5, {.pages = 1, .priority = -1});
  EXPECT_THAT((Plan(), Admitted()), ElementsAre(1, 2, 3, 4));
  ASSERT_EQ(plan_.overtaken.size(), 1u);
  EXPECT_EQ(At(plan_.overtaken[0].index).arrival, large);
  EXPECT_EQ(plan_.overtaken[0].admitted_before, 0);
  // What comes before it by its rank has not overtaken it.
  Wait(5, {.pages = 1, .priority = 1});
  Plan();
  ASSERT_EQ(plan_.overtaken.size(), 1u);
  EXPECT_EQ(plan_.overtaken[0].admitted_before, 1);
}

TEST_F(SchedulerTest, AfterSoManyNobodyOvertakes) {
  free_.pages[0] = 50;
  max_running_ = 100;
  budget_ = 1000;
  const uint64_t large = Wait(5, {.pages = 51, .overtaken = kMaxOvertaken - 3});
  for (int i = 0; i < 20; ++i) Wait(5, {.pages = 1});
  EXPECT_EQ(Take().size(), 3u);
  EXPECT_THAT(Take(), IsEmpty());
  Wait(5, {.pages = 1, .tenant = 1});  // Nor does one of a tenant with the same claim.
  tenants_[1].served = tenants_[0].served;
  EXPECT_THAT(Take(), IsEmpty());
  free_.pages[0] = 51;
  EXPECT_EQ(Take()[0], large);
}

// The number that docs/running.md tells.
TEST_F(SchedulerTest, SixteenOvertakeALargeRequest) {
  free_.pages[0] = 50;
  max_running_ = 100;
  budget_ = 1000;
  Wait(5, {.pages = 51});
  for (int i = 0; i < 40; ++i) Wait(5, {.pages = 1});
  EXPECT_EQ(Take().size(), 16u);
  EXPECT_THAT(Take(), IsEmpty());
}

TEST_F(SchedulerTest, NothingThatFitsNothingThatIsOvertaken) {
  free_.pages[0] = 1;
  for (int i = 0; i < 200; ++i) Wait(5, {.pages = 2});
  EXPECT_THAT((Plan(), Admitted()), IsEmpty());
  EXPECT_THAT(plan_.overtaken, IsEmpty());
}

// A queue under a stream of small requests: the large one gets its turn, since after a while
// nobody comes between.
TEST_F(SchedulerTest, ALargeRequestIsNotStarvedBySmallOnes) {
  struct Active {
    int pages, steps_left;
  };
  std::mt19937_64 random(3);
  std::vector<Active> active;
  free_.pages[0] = 20;
  for (int i = 0; i < 5; ++i) Wait(4, 4);
  const uint64_t large = Wait(4, {.pages = 20});
  int steps = 0, overtaken = 0;
  for (bool admitted = false; !admitted; ++steps) {
    ASSERT_LT(steps, 100);
    Wait(4, 1 + static_cast<int>(random() % 3));  // A new small one in every step.
    for (uint64_t number : Take()) {
      const int pages = needs_[number].pages[0];
      admitted = admitted || number == large;
      overtaken += number > large;
      active.push_back({pages, 5 + static_cast<int>(random() % 5)});
      free_.pages[0] -= pages;
    }
    for (size_t i = 0; i < active.size();) {
      if (--active[i].steps_left == 0) {
        free_.pages[0] += active[i].pages;
        active.erase(active.begin() + i);
      } else {
        ++i;
      }
    }
  }
  EXPECT_LE(overtaken, kMaxOvertaken);
}

}  // namespace
}  // namespace packrat
