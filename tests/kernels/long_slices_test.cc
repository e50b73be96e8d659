#include "kernels/long_slices.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <functional>
#include <thread>

#include "kernels/thread_pool.h"

namespace packrat {
namespace {

// The calling thread's, in ns; 0 where Linux does not tell.
uint64_t Slice() {
  std::array<uint64_t, 6> attributes{};  // As in sched_getattr(2).
  EXPECT_EQ(syscall(SYS_sched_getattr, 0, attributes.data(), sizeof(attributes), 0), 0);
  return attributes[3];
}

void OnItsOwnThread(const std::function<void()>& what) { std::thread(what).join(); }

TEST(LongSlices, AreLongerAndTheRestIsAsBefore) {
  OnItsOwnThread([] {
    ASSERT_EQ(setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), 3), 0);
    const uint64_t before = Slice();
    AskForLongSlices();
    EXPECT_EQ(getpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid))), 3);
    EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
    if (before == 0) GTEST_SKIP() << "this Linux has no slices to ask for";
    EXPECT_GT(Slice(), before);
  });
}

TEST(LongSlices, ThreadsThatComputeHaveThem) {
  const uint64_t own = Slice();
  if (own == 0) GTEST_SKIP() << "this Linux has no slices to ask for";
  ThreadPool pool(2);
  for (bool seen = false; !seen;) {
    pool.Run(2, [&](int64_t, int worker) {
      if (worker == 0) return;
      seen = true;
      EXPECT_GT(Slice(), own);
    });
  }
  EXPECT_EQ(Slice(), own);
}

// What waits for its moment has it, whatever else it may do.
TEST(LongSlices, NothingElseIsTouched) {
  OnItsOwnThread([] {
    sched_param none{};
    ASSERT_EQ(sched_setscheduler(0, SCHED_IDLE, &none), 0);
    AskForLongSlices();
    EXPECT_EQ(sched_getscheduler(0), SCHED_IDLE);
  });
}

}  // namespace
}  // namespace packrat
