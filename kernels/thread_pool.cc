#include "kernels/thread_pool.h"

#include <pthread.h>

#include "kernels/check.h"
#include "kernels/flush_subnormals.h"

namespace packrat {
namespace {

// A decode step runs hundreds of short parallel regions with a few microseconds of serial work
// between them. If a worker slept after each, every region would cost a futex wake (about 50 us).
// So a worker spins for about as long as a wake takes, then sleeps. Where threads share CPUs,
// spinning takes time from a thread that works, or from the group's quota, after which all threads
// stand still until its next period. There a worker sleeps at once.
constexpr int kSpins = 2000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

uint32_t Unclaimed(uint64_t ticket) { return static_cast<uint32_t>(ticket); }

}  // namespace

ThreadPool::ThreadPool(int threads, const Resources& resources)
    : size_(threads > 0 ? threads : resources.DefaultThreads()),
      spins_(size_ <= resources.cpus),
      parts_(size_),
      words_(std::make_unique<Words>()) {
  for (int worker = 1; worker < size_; ++worker) {
    threads_.emplace_back([this, worker] {
      pthread_setname_np(pthread_self(), "packrat-compute");
      const FlushSubnormals flush;
      WorkerLoop(worker);
    });
  }
}

ThreadPool::~ThreadPool() {
  {
    // Without the lock, a worker between its look at stop_ and its sleep would miss the wake-up.
    // That is too rare for a test to catch.
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::Run(int64_t count, Task task) {
  if (count <= 0) return;
  const FlushSubnormals flush;
  if (size_ == 1 || count == 1) {
    for (int64_t i = 0; i < count; ++i) task(i, 0);
    return;
  }
  PACKRAT_CHECK(count <= UINT32_MAX);
  task_ = &task;
  count_ = count;
  words_->unfinished.store(count, std::memory_order_relaxed);
  const uint32_t run = words_->run.load(std::memory_order_relaxed) + 1;
  for (int part = size_ - 1; part >= 0; --part) {
    const int64_t tasks = End(part) - (part == 0 ? 0 : End(part - 1));
    parts_[part].ticket.store(uint64_t{run} << 32 | static_cast<uint64_t>(tasks),
                              std::memory_order_release);
  }
  words_->run.store(run, std::memory_order_release);
  // One word that the sleeper increments as well: either it sees the run or we see it.
  if (words_->sleeping.fetch_add(0) > 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }
  RunTasks(0);
  WaitForOthers();
}

void ThreadPool::WaitForOthers() {
  if (!spins_) {
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return words_->unfinished.load(std::memory_order_acquire) == 0; });
    return;
  }
  for (int spins = 0; words_->unfinished.load(std::memory_order_acquire) > 0; ++spins) {
    // The machine may be busy: the thread of the last task may need our core.
    if (spins < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::RunTasks(int worker) {
  for (int i = 0; i < size_; ++i) RunPart((worker + i) % size_, worker);
}

void ThreadPool::RunPart(int part, int worker) {
  std::atomic<uint64_t>& next = parts_[part].ticket;
  uint64_t ticket = next.load(std::memory_order_acquire);
  int64_t done = 0;
  while (Unclaimed(ticket) > 0) {
    if (!next.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel,
                                    std::memory_order_acquire)) {
      continue;
    }
    // The run cannot end before this task is counted: task_ and count_ stay valid.
    (*task_)(End(part) - Unclaimed(ticket), worker);
    ++done;
    ticket = next.load(std::memory_order_acquire);
  }
  if (done == 0) return;
  if (words_->unfinished.fetch_sub(done, std::memory_order_acq_rel) == done && !spins_) {
    // Under the lock: the caller may be between its look and its sleep. It is alive, and the pool
    // with it, until this thread is joined.
    std::lock_guard<std::mutex> lock(mutex_);
    done_.notify_one();
  }
}

void ThreadPool::WorkerLoop(int worker) {
  uint32_t seen = 0;
  const auto idle = [&] {
    return words_->run.load(std::memory_order_acquire) == seen && !stop_.load();
  };
  while (!stop_.load(std::memory_order_relaxed)) {
    for (int spins = spins_ ? 0 : kSpins; spins < kSpins && idle(); ++spins) Pause();
    if (idle()) {
      std::unique_lock<std::mutex> lock(mutex_);
      words_->sleeping.fetch_add(1);
      wake_.wait(lock, [&] { return !idle(); });
      words_->sleeping.fetch_sub(1);
    }
    seen = words_->run.load(std::memory_order_acquire);
    RunTasks(worker);
  }
}

}  // namespace packrat
