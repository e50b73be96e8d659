// Who is parked for whom, and when it comes back.
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
using ::testing::UnorderedElementsAre;

class SchedulerParkTest : public SchedulerTest {
 protected:
  SchedulerParkTest() {
    park_room_ = 1000;
    max_running_ = 2;
  }
  const std::vector<int>& Parked(absl::Time now = kNow) {
    Plan(now);
    return plan_.park;
  }
};

TEST_F(SchedulerParkTest, ThePlaceOfTheLowestRank) {
  Run({.priority = 1});
  Run({.priority = 0});
  Wait(10, {.priority = 2});
  EXPECT_THAT(Parked(), ElementsAre(1));
  EXPECT_THAT(Admitted(), ElementsAre(2));
  EXPECT_THAT(plan_.levels, ElementsAre(2));
  ASSERT_EQ(plan_.pieces.size(), 2u);  // Not of the parked one.
  EXPECT_EQ(plan_.pieces[0].index, 0);
  EXPECT_FALSE(plan_.pieces[0].admitted);
  EXPECT_TRUE(plan_.pieces[1].admitted);
  EXPECT_EQ(plan_.blocked, Blocked::kNothing);
  running_[0].rank.priority = 0;  // Of equals the one that came last.
  EXPECT_THAT(Parked(), ElementsAre(1));
  std::swap(running_[0].rank, running_[1].rank);
  EXPECT_THAT(Parked(), ElementsAre(0));
}

TEST_F(SchedulerParkTest, NobodyWhereThereIsRoom) {
  max_running_ = 3;
  Run({});
  Run({});
  Wait(10, {.priority = 2});
  EXPECT_THAT(Parked(), IsEmpty());
  EXPECT_THAT(Admitted(), ElementsAre(2));
}

// However long it has waited.
TEST_F(SchedulerParkTest, EqualsAndHigherOnesAreNeverParked) {
  Run({.priority = 1});
  Run({.priority = 2});
  Wait(10, {.priority = 1, .arrived = kNow - absl::Hours(1)});
  EXPECT_THAT(Parked(), IsEmpty());
  EXPECT_THAT(Admitted(), IsEmpty());
  EXPECT_EQ(plan_.blocked, Blocked::kMaxRunning);
}

// What waited until it was as good as the others is not parked by the next of them.
TEST_F(SchedulerParkTest, WhatWasAdmittedForItsAgeKeepsItsLevel) {
  max_running_ = 1;
  Run({.priority = -10, .level = 3});
  Wait(10, {.priority = 0, .arrived = kNow - 4 * kPriorityStep + absl::Milliseconds(1)});
  EXPECT_THAT(Parked(), IsEmpty());
  EXPECT_THAT(Parked(kNow + absl::Milliseconds(1)), ElementsAre(0));
  EXPECT_THAT(plan_.levels, ElementsAre(4));
}

TEST_F(SchedulerParkTest, AsManyAsMakeRoomInMemory) {
  max_running_ = 8;
  free_ = {8, 8, {2}};
  Run({.pages = 2});
  Run({.pages = 4});
  Run({.pages = 1});
  Run({.priority = 2, .pages = 50});
  Wait(10, {.pages = 6, .priority = 1});
  // The last alone is too little; with the one before it, it is not needed.
  EXPECT_THAT(Parked(), ElementsAre(1));
  free_.pages[0] = 1;
  EXPECT_THAT(Parked(), UnorderedElementsAre(1, 2));
  free_.pages[0] = 0;
  EXPECT_THAT(Parked(), UnorderedElementsAre(0, 1));
  Wait(10, {.pages = 8, .priority = 2});  // Comes first, is too large, and parks nobody.
  EXPECT_THAT(Parked(), UnorderedElementsAre(0, 1));
  EXPECT_THAT(Admitted(), ElementsAre(4));
  EXPECT_EQ(plan_.blocked, Blocked::kMemory);
  ASSERT_EQ(plan_.overtaken.size(), 1u);
  EXPECT_EQ(At(plan_.overtaken[0].index).arrival, 5u);
}

TEST_F(SchedulerParkTest, NoMoreThanSoManyInAStep) {
  max_running_ = 10;
  free_ = {8, 8, {0}};
  for (int i = 0; i < 8; ++i) Run({});
  Wait(10, {.pages = kMaxParks + 1, .priority = 1});
  EXPECT_THAT(Parked(), IsEmpty());
  waiting_.clear();
  Wait(10, {.pages = kMaxParks - 1, .priority = 1});
  Wait(10, {.pages = 2, .priority = 1});
  Wait(10, {.pages = 1, .priority = 1});
  EXPECT_EQ(static_cast<int>(Parked().size()), kMaxParks);
  EXPECT_THAT(Admitted(), ElementsAre(9, 11));
}

TEST_F(SchedulerParkTest, NobodyBeforeItHasMadeProgress) {
  max_running_ = 1;
  Run({.progress = kParkTokens - 1});
  Wait(10, {.priority = 1});
  EXPECT_THAT(Parked(), IsEmpty());
  running_[0].progress = kParkTokens;
  EXPECT_THAT(Parked(), ElementsAre(0));
}

TEST_F(SchedulerParkTest, NoMoreThanThereIsRoomFor) {
  Run({.bytes = 10});
  Run({.bytes = 20});
  Wait(10, {.priority = 1});
  Wait(10, {.priority = 1});
  park_room_ = 30;
  EXPECT_THAT(Parked(), ElementsAre(1, 0));
  park_room_ = 29;
  EXPECT_THAT(Parked(), ElementsAre(1));
  park_room_ = 19;
  EXPECT_THAT(Parked(), ElementsAre(0));
  park_room_ = 9;
  EXPECT_THAT(Parked(), IsEmpty());
  park_room_ = 0;
  running_[0].bytes = 0;
  EXPECT_THAT(Parked(), IsEmpty());
}

TEST_F(SchedulerParkTest, NotWhatEndsAnyway) {
  Run({.complete = true});
  Run({.deadline = kNow});
  Wait(10, {.priority = 1});
  EXPECT_THAT(Parked(), IsEmpty());
  EXPECT_THAT(plan_.expire_running, ElementsAre(1));
  running_[0].complete = false;
  running_[0].frees = nullptr;  // Or what the engine has reasons to keep.
  EXPECT_THAT(Parked(), IsEmpty());
}

// Once half of the time is over.
TEST_F(SchedulerParkTest, ADeadlineParksWhoHasMoreTime) {
  max_running_ = 1;
  Run({});
  Wait(10, {.deadline = kNow + absl::Seconds(10)});
  EXPECT_THAT(Parked(kNow + absl::Seconds(4.9)), IsEmpty());
  EXPECT_THAT(Parked(kNow + absl::Seconds(5)), ElementsAre(0));
  EXPECT_THAT(Admitted(), ElementsAre(1));
  const absl::Time late = kNow + absl::Seconds(9);
  running_[0].deadline = kNow + absl::Seconds(10);
  EXPECT_THAT(Parked(late), IsEmpty());
  running_[0].deadline += absl::Nanoseconds(1);
  EXPECT_THAT(Parked(late), ElementsAre(0));
  running_[0].rank.priority = 1;
  EXPECT_THAT(Parked(late), IsEmpty());
  running_[0].rank.priority = -1;
  EXPECT_THAT(Parked(late), ElementsAre(0));
}

// Who sets deadlines gains nothing over tenants that set none.
TEST_F(SchedulerParkTest, ADeadlineParksNobodyOfATenantThatHadLess) {
  max_running_ = 1;
  Run({.tenant = 1});
  Wait(10, {.arrived = kNow - absl::Hours(1), .deadline = kNow + absl::Seconds(1)});
  tenants_[0].served = 100;
  tenants_[1].served = 99;
  EXPECT_THAT(Parked(), IsEmpty());
  tenants_[1].served = 100;
  EXPECT_THAT(Parked(), ElementsAre(0));
}

TEST_F(SchedulerParkTest, GoesOnWhereItStopped) {
  max_running_ = 3;
  Run(10, 0);
  Wait(0, {.pages = 1});
  Wait(100, {.pages = 1});
  auto& items = waiting_[{0, 0}].items;
  items[0].position = 70;
  items[1].position = 40;
  budget_ = 32;
  EXPECT_THAT((Plan(), Admitted()), ElementsAre(1, 2));
  // Both decode, and the prompt has what is left, to the end of a block.
  EXPECT_THAT(PieceTokens(), ElementsAre(1, 1, 24));
  EXPECT_TRUE(plan_.pieces[1].admitted);
  EXPECT_EQ(plan_.pieces[1].index, 0);
  EXPECT_TRUE(plan_.pieces[2].admitted);
  EXPECT_EQ(plan_.pieces[2].index, 1);
}

// Its flow does not begin to wait anew because of it.
TEST_F(SchedulerParkTest, ItsFlowKeepsItsAge) {
  max_running_ = 1;
  Wait(10, {.arrived = kNow});
  Wait(10, {.arrived = kNow - 3 * kPriorityStep});
  waiting_[{0, 0}].items[0].position = 70;
  EXPECT_THAT((Plan(), Admitted()), ElementsAre(0));
  EXPECT_THAT(plan_.levels, ElementsAre(3));
  waiting_[{0, 0}].items[0].position = 0;
  EXPECT_THAT((Plan(), plan_.levels), ElementsAre(0));
}

// One place, for which there is always somebody of higher priority: the low one gets on all the
// same, is parked no more often than it makes progress, and comes back for its age.
TEST_F(SchedulerParkTest, WhatIsParkedDoesNotStarve) {
  constexpr int kLevels = 5, kTokens = 200;
  constexpr absl::Duration kStep = absl::Milliseconds(10);
  max_running_ = 1;
  Wait(1, {.priority = -kLevels, .output = kTokens});
  int left = kTokens, parks = 0, high_left = 0;
  absl::Time now = kNow;
  for (; left > 0; now += kStep) {
    ASSERT_LT(now - kNow, kTokens * kLevels * kPriorityStep);
    if (waiting_.count({0, 0}) == 0) Wait(1, {.arrived = now});
    Plan(now);
    ASSERT_LE(plan_.park.size(), 1u);
    const std::vector<int64_t> levels = plan_.levels;
    const bool park = !plan_.park.empty();
    if (park) {
      ASSERT_EQ(running_[0].rank.arrival, 0u);
      ASSERT_GE(running_[0].progress, kParkTokens);
      ++parks;
    }
    const std::vector<uint64_t> admitted = Take(now);  // Plans the same.
    if (park) {
      Wait(0, {.priority = -kLevels, .arrived = now});
      waiting_[{0, -kLevels}].items[0].arrival = 0;
      running_.clear();
    }
    for (size_t i = 0; i < admitted.size(); ++i) {
      Run({.priority = admitted[i] == 0 ? -kLevels : 0, .level = levels[i], .progress = 0});
      running_[0].rank.arrival = admitted[i];
      high_left = 5;
    }
    if (running_.empty()) continue;
    ++running_[0].progress;
    if (running_[0].rank.arrival == 0 ? --left == 0 : --high_left == 0) running_.clear();
  }
  EXPECT_LE(parks, kTokens / kParkTokens);
  EXPECT_GE(parks, 2);
  // Each time it waits as long as one that is new, and some more until the place is free.
  EXPECT_LE(now - kNow, kTokens * kStep + (parks + 1) * (kLevels * kPriorityStep + 6 * kStep));
}

TEST_F(SchedulerParkTest, InvariantsOnRandomInputs) {
  std::mt19937_64 random(17);
  const auto pick = [&](int n) { return static_cast<int>(random() % n); };
  int parks = 0, together = 0;
  for (int round = 0; round < 20000; ++round) {
    waiting_.clear();
    running_.clear();
    needs_.clear();
    next_ = 0;
    max_running_ = 1 + pick(8);
    free_ = {pick(3), pick(3), {pick(10)}};
    park_room_ = pick(4) * 10;
    for (TenantShare& tenant : tenants_) tenant = {0.5 + pick(4), static_cast<double>(pick(3))};
    const auto deadline = [&] {
      return pick(3) == 0 ? kNow + absl::Milliseconds(100 * pick(6)) : kNever;
    };
    for (int i = pick(max_running_ + 1); i > 0; --i) {
      Run({.priority = pick(4),
           .tenant = pick(3),
           .deadline = deadline(),
           .level = pick(6),
           .progress = kParkTokens - 1 + pick(4),
           .bytes = 1 + pick(20),
           .pages = pick(8),
           .complete = pick(8) == 0});
    }
    for (int i = pick(6); i > 0; --i) {
      Wait(pick(50), {.pages = pick(20),
                      .priority = pick(5),
                      .tenant = pick(3),
                      .arrived = kNow - absl::Milliseconds(pick(1000)),
                      .deadline = deadline(),
                      .overtaken = pick(2) * pick(kMaxOvertaken + 1)});
    }
    Plan();
    ASSERT_LE(static_cast<int>(plan_.park.size()), kMaxParks);
    ASSERT_EQ(plan_.levels.size(), plan_.admit.size());
    int64_t bytes = 0;
    PartCounts free = free_;
    int highest = -1;
    bool urgent = false;
    for (WaitingIndex index : plan_.admit) {
      const WaitingItem& item = At(index);
      --free.slots;
      --free.tails;
      free.pages[0] -= item.need->pages[0];
      highest = std::max(highest, flows_[index.flow].priority);
      urgent = urgent || IsUrgent(item, kNow);
    }
    std::vector<bool> parked(running_.size());
    for (int i : plan_.park) {
      const RunningItem& item = running_[i];
      ASSERT_FALSE(parked[i]);
      parked[i] = true;
      ASSERT_FALSE(item.complete);
      ASSERT_GT(item.deadline, kNow);
      ASSERT_GE(item.progress, kParkTokens);
      ASSERT_TRUE(item.rank.priority < highest || (urgent && item.rank.priority == highest));
      bytes += item.bytes;
      ++free.slots;
      ++free.tails;
      free.pages[0] += item.frees->pages[0];
    }
    ASSERT_LE(bytes, park_room_);
    ASSERT_GE(std::min({free.slots, free.tails, free.pages[0]}), 0);
    const int running = static_cast<int>(running_.size() + plan_.admit.size() - plan_.park.size());
    ASSERT_LE(running, max_running_);
    // Each is needed by somebody.
    if (plan_.admit.size() == 1) {
      for (int i : plan_.park) {
        ASSERT_TRUE(running == max_running_ || free.slots == 0 || free.tails == 0 ||
                    free.pages[0] < running_[i].frees->pages[0]);
      }
    }
    for (const Piece& piece : plan_.pieces) ASSERT_TRUE(piece.admitted || !parked[piece.index]);
    parks += static_cast<int>(plan_.park.size());
    together += plan_.park.size() > 1;
  }
  EXPECT_GT(parks, 1000);
  EXPECT_GT(together, 50);
}

}  // namespace
}  // namespace packrat
