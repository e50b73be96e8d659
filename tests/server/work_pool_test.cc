#include "server/work_pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"

namespace packrat {
namespace {

// Keeps the pool's only thread busy until it is opened. The thread may go on a moment longer than
// this.
class Blocker {
 public:
  explicit Blocker(WorkPool* pool) {
    EXPECT_TRUE(pool->Submit(1,
                             [gates = gates_] {
                               gates->begun.set_value();
                               gates->open.get_future().wait();
                             })
                    .ok());
    gates_->begun.get_future().wait();
  }
  void Open() { gates_->open.set_value(); }

 private:
  struct Gates {
    std::promise<void> begun, open;
  };
  const std::shared_ptr<Gates> gates_ = std::make_shared<Gates>();
};

WorkPool::Options Small() {
  WorkPool::Options options;
  options.threads = 1;
  options.max_queue = 3;
  options.max_bytes = 100;
  return options;
}

TEST(WorkPool, WorksInOrderOfArrival) {
  std::vector<int> order;
  {
    WorkPool pool(Small());
    Blocker blocker(&pool);
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(pool.Submit(10, [&order, i] { order.push_back(i); }).ok());
    }
    blocker.Open();
  }  // What waits is done.
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2}));
}

TEST(WorkPool, WhatIsWithdrawnIsNotDoneAndLeavesItsPlace) {
  std::vector<int> order;
  {
    WorkPool pool(Small());
    Blocker blocker(&pool);
    std::vector<WorkPool::Ticket> tickets(3);
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(pool.Submit(
                          33, [&order, i] { order.push_back(i); }, &tickets[i])
                      .ok());
    }
    EXPECT_TRUE(absl::IsResourceExhausted(pool.Submit(33, [] {})));
    pool.Withdraw(tickets[1]);
    pool.Withdraw(tickets[1]);
    EXPECT_EQ(pool.waiting(), 2);
    ASSERT_TRUE(pool.Submit(33, [&order] { order.push_back(3); }).ok());
    blocker.Open();
  }
  EXPECT_EQ(order, (std::vector<int>{0, 2, 3}));
}

TEST(WorkPool, RefusesWhatIsTooMuch) {
  int done = 0;
  std::promise<void> last, large;
  WorkPool pool(Small());
  Blocker blocker(&pool);
  const auto work = [&done] { ++done; };
  EXPECT_EQ(pool.waiting(), 0);  // What is worked on does not wait.
  ASSERT_TRUE(pool.Submit(40, work).ok());
  ASSERT_TRUE(pool.Submit(60, work).ok());
  EXPECT_EQ(pool.waiting(), 2);
  EXPECT_TRUE(absl::IsResourceExhausted(pool.Submit(1, work)));  // Of the bytes.
  ASSERT_TRUE(pool.Submit(0, work).ok());
  const absl::Status full = pool.Submit(0, work);  // Of the places.
  EXPECT_TRUE(absl::IsResourceExhausted(full));
  EXPECT_TRUE(absl::StrContains(full.message(), "max_text_queue 3")) << full;
  blocker.Open();
  while (!pool.Submit(0, [&] { last.set_value(); }).ok()) sched_yield();
  last.get_future().wait();
  EXPECT_EQ(done, 3);
  // One that is larger than all bytes is taken where nothing else waits.
  ASSERT_TRUE(pool.Submit(1000, [&] { large.set_value(); }).ok());
  large.get_future().wait();
}

TEST(WorkPool, ItsThreadsYieldToTheOthers) {
  const int nice = getpriority(PRIO_PROCESS, 0);
  std::promise<std::pair<int, int>> inside;
  {
    WorkPool pool(Small());
    ASSERT_TRUE(pool.Submit(0,
                            [&] {
                              inside.set_value(
                                  {getpriority(PRIO_PROCESS, static_cast<id_t>(gettid())),
                                   sched_getscheduler(gettid())});
                            })
                    .ok());
  }
  const auto [pool_nice, policy] = inside.get_future().get();
  EXPECT_GE(pool_nice, 10);
  EXPECT_EQ(policy, SCHED_BATCH);
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), nice);
}

TEST(WorkPool, HasAThreadByDefault) {
  std::promise<void> done;
  WorkPool pool((WorkPool::Options()));
  ASSERT_TRUE(pool.Submit(0, [&] { done.set_value(); }).ok());
  done.get_future().wait();
}

}  // namespace
}  // namespace packrat
