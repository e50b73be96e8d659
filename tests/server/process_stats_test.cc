#include "server/process_stats.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <future>
#include <thread>

#include "absl/time/clock.h"

namespace packrat {
namespace {

TEST(ProcessStats, FollowWhatTheProcessDoes) {
  const ProcessStats before = ReadProcessStats();
  EXPECT_GT(before.resident_bytes, 1e5);
  EXPECT_GT(before.virtual_bytes, before.resident_bytes);

  constexpr size_t kBytes = size_t{64} << 20;
  void* memory =
      mmap(nullptr, 2 * kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::memset(memory, 1, kBytes);
  const int fds[] = {open("/dev/null", O_RDONLY), open("/dev/null", O_RDONLY)};
  std::promise<void> stop;
  std::thread thread([wait = stop.get_future()]() mutable { wait.wait(); });
  const ProcessStats after = ReadProcessStats();
  EXPECT_EQ(after.open_fds, before.open_fds + 2);
  EXPECT_GE(after.threads, before.threads + 1);
  EXPECT_NEAR(after.resident_bytes - before.resident_bytes, kBytes, 0.25 * kBytes);
  EXPECT_GE(after.virtual_bytes - before.virtual_bytes, 2 * kBytes);
  EXPECT_EQ(after.start_time_seconds, before.start_time_seconds);
  stop.set_value();
  thread.join();
  for (int fd : fds) close(fd);
  munmap(memory, 2 * kBytes);
  EXPECT_EQ(ReadProcessStats().open_fds, before.open_fds);
}

TEST(ProcessStats, CpuTimeIsOfThisProcess) {
  const double before = ReadProcessStats().cpu_seconds;
  timespec start = {}, now = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
  double spent = 0;
  while (spent < 0.1) {
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    spent = static_cast<double>(now.tv_sec - start.tv_sec) +
            1e-9 * static_cast<double>(now.tv_nsec - start.tv_nsec);
  }
  EXPECT_NEAR(ReadProcessStats().cpu_seconds - before, spent, 0.05);
}

TEST(ProcessStats, ItStartedNotLongAgo) {
  const double age = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()) -
                     ReadProcessStats().start_time_seconds;
  EXPECT_GT(age, -2);  // The time of boot is told in whole seconds.
  EXPECT_LT(age, 300);
}

TEST(ProcessStats, LimitOfDescriptors) {
  rlimit old = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  EXPECT_EQ(ReadProcessStats().max_fds, static_cast<double>(old.rlim_cur));
  rlimit low = old;
  low.rlim_cur = 100;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  EXPECT_EQ(ReadProcessStats().max_fds, 100);
  // With none left to look with, all are open.
  int fd = 0, last = -1;
  while ((fd = open("/dev/null", O_RDONLY)) >= 0) last = fd;
  EXPECT_EQ(ReadProcessStats().open_fds, 100);
  close(last);
  EXPECT_EQ(ReadProcessStats().open_fds, 99);
  for (fd = 3; fd < 100; ++fd) close(fd);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
}

}  // namespace
}  // namespace packrat
