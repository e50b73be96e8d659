#include "kernels/thread_pool.h"

#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "tests/kernels/random.h"

namespace packrat {
namespace {

Resources Cpus(double cpus) {
  Resources resources;
  resources.cpus = cpus;
  return resources;
}

// Tasks of runs whose counts differ from one to the next: a worker that comes late must not take
// what belongs to another run. `calls` is plain memory, so that ThreadSanitizer sees every index
// that two threads run and every result that Run() returns without.
void RunMany(int threads, int runs, int largest, double cpus = 2) {
  ThreadPool pool(threads, Cpus(cpus));
  ASSERT_EQ(pool.size(), threads);
  Random random(static_cast<uint64_t>(threads));
  std::vector<int> calls(largest), last_run(largest);
  std::vector<int> per_worker(threads);
  for (int run = 1; run <= runs; ++run) {
    const int count = random.Int(0, 3) == 0 ? random.Int(0, 3) : random.Int(0, largest);
    std::fill(calls.begin(), calls.end(), 0);
    std::atomic<bool> bad_worker{false};
    pool.Run(count, [&](int64_t index, int worker) {
      if (worker < 0 || worker >= threads || index < 0 || index >= count) {
        bad_worker = true;
        return;
      }
      ++calls[index];
      last_run[index] = run;
      ++per_worker[worker];
    });
    ASSERT_FALSE(bad_worker) << "a worker or an index out of range";
    for (int i = 0; i < largest; ++i) {
      ASSERT_EQ(calls[i], i < count ? 1 : 0) << "index " << i << " of " << count;
      ASSERT_TRUE(i >= count || last_run[i] == run);
    }
  }
}

TEST(ThreadPoolTest, EveryIndexOnce) {
  RunMany(1, 300, 50);
  RunMany(2, 3000, 50);
  RunMany(3, 3000, 7);
}

// So many tasks of next to no work that threads claim at the same moment.
TEST(ThreadPoolTest, CrowdedClaims) {
  RunMany(2, 200, 20000);
  RunMany(4, 100, 20000);
}

TEST(ThreadPoolTest, MoreThreadsThanCores) { RunMany(13, 600, 40); }

TEST(ThreadPoolTest, EveryIndexOnceWhereThreadsSleepAndWhereTheySpin) {
  for (const double cpus : {1.0, 64.0}) RunMany(4, 1500, 9, cpus);
}

TEST(ThreadPoolTest, WakesSleepers) {
  ThreadPool pool(4);
  std::vector<int> calls(64);
  for (int run = 1; run <= 20; ++run) {
    // Long enough that all workers have stopped spinning.
    std::this_thread::sleep_for(std::chrono::milliseconds(run % 4 * 5));
    pool.Run(64, [&](int64_t index, int) { ++calls[index]; });
    for (const int c : calls) ASSERT_EQ(c, run);
  }
}

// Four tasks that wait for each other end only if four threads run them at once, all awake.
TEST(ThreadPoolTest, AllThreadsTakePart) {
  ThreadPool pool(4);
  for (const int sleep_ms : {0, 20, 0, 0}) {
    std::this_thread::sleep_for(std::chrono::milliseconds(sleep_ms));
    std::atomic<int> arrived{0};
    std::vector<int> seen(4);
    pool.Run(4, [&](int64_t, int worker) {
      ++seen[worker];
      arrived.fetch_add(1);
      while (arrived.load() < 4) std::this_thread::yield();
    });
    for (const int s : seen) EXPECT_EQ(s, 1);
  }
}

TEST(ThreadPoolTest, StartsAndStops) {
  for (int i = 0; i < 40; ++i) {
    ThreadPool pool(i % 5 + 1);  // Some are stopped before they ran anything.
    int sum = 0;
    if (i % 2 == 0) pool.Run(1, [&](int64_t, int worker) { sum += worker == 0 ? 1 : 100; });
    EXPECT_EQ(sum, i % 2 == 0 ? 1 : 0);
    pool.Run(0, [&](int64_t, int) { ++sum; });
    pool.Run(-1, [&](int64_t, int) { ++sum; });
    EXPECT_EQ(sum, i % 2 == 0 ? 1 : 0);
  }
}

TEST(ThreadPoolTest, ZeroMeansWhatMayBeUsed) {
  EXPECT_EQ(ThreadPool(0).size(), ReadResources().DefaultThreads());
  EXPECT_EQ(ThreadPool(0, Cpus(0.5)).size(), 1);
  EXPECT_EQ(ThreadPool(0, Cpus(1)).size(), 1);
  EXPECT_EQ(ThreadPool(0, Cpus(2.7)).size(), 3);
  EXPECT_EQ(ThreadPool(5, Cpus(2)).size(), 5) << "what is asked for counts";
}

absl::Duration CpuTime() {
  timespec time = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

// With more threads than CPUs, neither the caller that waits for a worker nor the workers that wait
// for a run use CPU time.
TEST(ThreadPoolTest, ShortOfCpusWaitingIsSleeping) {
  ThreadPool pool(3, Cpus(1));
  const auto sleep = [] { std::this_thread::sleep_for(std::chrono::milliseconds(300)); };
  std::atomic<int> elsewhere{0};
  const absl::Duration before = CpuTime();
  pool.Run(3, [&](int64_t, int worker) {
    if (worker == 0) {  // Leaves the long tasks to the others.
      while (elsewhere.load() < 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    } else {
      elsewhere.fetch_add(1);
      sleep();
    }
  });
  sleep();  // Between runs.
  EXPECT_LT(CpuTime() - before, absl::Milliseconds(150));
}

TEST(KernelContextTest, ScratchOfEachThreadIsItsOwn) {
  KernelContext context(3, 5, 33);
  EXPECT_EQ(context.pool.size(), 3);
  EXPECT_GE(context.packed.size(), 5u);
  for (int worker = 0; worker < 3; ++worker) {
    std::fill_n(context.scratch(worker), 33, static_cast<float>(worker));
  }
  for (int worker = 0; worker < 3; ++worker) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(context.scratch(worker)) % 64, 0u);
    for (int i = 0; i < 33; ++i) EXPECT_EQ(context.scratch(worker)[i], static_cast<float>(worker));
  }
  EXPECT_GE(context.bytes(), (5 + 3 * 33) * sizeof(float));
}

// On every thread, and where there is one task or one thread alone; and it is over afterwards.
TEST(ThreadPoolTest, TasksComputeWithoutSubnormals) {
  volatile float small = 0x1p-126f, half = 0.5f, two = 2.0f, subnormal = 0x1p-127f;
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads, Cpus(threads));
    for (const int count : {1, threads}) {
      std::atomic<int> begun{0}, made{0}, taken{0};
      pool.Run(count, [&](int64_t, int) {
        ++begun;
        while (begun < count) std::this_thread::yield();  // Each task on another thread.
        if (small * half != 0.0f) ++made;
        if (subnormal * two != 0.0f) ++taken;
      });
      EXPECT_EQ(made, 0) << "of " << count << " on " << threads;
      EXPECT_EQ(taken, 0) << "of " << count << " on " << threads;
      EXPECT_EQ(small * half * two, 0x1p-126f);
    }
  }
}

}  // namespace
}  // namespace packrat
