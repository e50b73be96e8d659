// How many calls may wait for their message, and for how long; the clock is the test's.
#include "server/grpc/unread_calls.h"

#include <gtest/gtest.h>

#include <vector>

namespace packrat {
namespace {

using std::chrono::milliseconds;

class UnreadCallsTest : public testing::Test {
 protected:
  UnreadCallsTest() : calls_(Limits()) {}

  static UnreadCalls::Options Limits() {
    UnreadCalls::Options limits;
    limits.timeout = milliseconds(60000);
    limits.most = 10;
    limits.young = milliseconds(1000);
    limits.most_slow = 3;
    return limits;
  }
  // Its number is its place in ended_.
  uint64_t Enter() {
    const size_t number = ended_.size();
    ended_.push_back(absl::OkStatus());
    return calls_.Enter(now_, [this, number](const absl::Status& status) {
      EXPECT_TRUE(ended_[number].ok()) << "ended twice";
      ended_[number] = status;
    });
  }
  void Wait(int ms) { now_ += milliseconds(ms); }
  std::vector<size_t> Ended() const {
    std::vector<size_t> numbers;
    for (size_t i = 0; i < ended_.size(); ++i) {
      if (!ended_[i].ok()) numbers.push_back(i);
    }
    return numbers;
  }

  UnreadCalls calls_;
  UnreadCalls::Time now_{std::chrono::hours(1)};
  std::vector<absl::Status> ended_;
};

TEST_F(UnreadCallsTest, EndAtTheirTime) {
  Enter();
  Wait(1);
  Enter();
  Wait(59998);
  calls_.Sweep(now_);
  EXPECT_EQ(Ended(), std::vector<size_t>{});
  Wait(1);
  calls_.Sweep(now_);
  EXPECT_EQ(Ended(), std::vector<size_t>{0});
  EXPECT_TRUE(absl::IsDeadlineExceeded(ended_[0])) << ended_[0];
  EXPECT_EQ(calls_.count(), 1);
  EXPECT_EQ(calls_.ended(), 1);
}

TEST_F(UnreadCallsTest, WhoseMessageCameDoNotEnd) {
  calls_.Leave(Enter());
  Wait(100000);
  calls_.Sweep(now_);
  EXPECT_EQ(Ended(), std::vector<size_t>{});
  EXPECT_EQ(calls_.count(), 0);
}

TEST_F(UnreadCallsTest, TheOldestOfTooManySlowOnesEnd) {
  for (int i = 0; i < 5; ++i) Enter();
  Wait(500);
  for (int i = 0; i < 5; ++i) Enter();
  calls_.Sweep(now_);
  EXPECT_EQ(Ended(), std::vector<size_t>{});  // Young, however many.
  Wait(500);
  calls_.Sweep(now_);
  EXPECT_EQ(Ended(), (std::vector<size_t>{0, 1}));
  EXPECT_TRUE(absl::IsResourceExhausted(ended_[0])) << ended_[0];
  calls_.Sweep(now_);
  EXPECT_EQ(Ended(), (std::vector<size_t>{0, 1}));
  Wait(500);
  calls_.Sweep(now_);
  EXPECT_EQ(Ended(), (std::vector<size_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(calls_.count(), 3);
  EXPECT_EQ(calls_.ended(), 7);
}

TEST_F(UnreadCallsTest, BeyondTheLimitOfAllTheOldestEnds) {
  for (int i = 0; i < 10; ++i) Enter();
  EXPECT_EQ(Ended(), std::vector<size_t>{});
  Enter();
  EXPECT_EQ(Ended(), std::vector<size_t>{0});
  EXPECT_TRUE(absl::IsResourceExhausted(ended_[0])) << ended_[0];
  EXPECT_EQ(calls_.count(), 10);
  EXPECT_EQ(calls_.ended(), 1);
}

}  // namespace
}  // namespace packrat
