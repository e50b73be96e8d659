// A fixed set of threads for the kernels, made once.
#ifndef PACKRAT_KERNELS_THREAD_POOL_H_
#define PACKRAT_KERNELS_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/resources.h"

namespace packrat {

class ThreadPool {
 public:
  using Task = absl::FunctionRef<void(int64_t index, int worker)>;

  // `threads` includes the calling thread: 1 starts none. 0: Resources::DefaultThreads(). Where
  // there are more threads than CPUs, a thread that waits sleeps: if it spun, it would use up CPU
  // time, and quota, that the others need.
  explicit ThreadPool(int threads) : ThreadPool(threads, ReadResources()) {}
  ThreadPool(int threads, const Resources& resources);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls task(i, worker) for every i in [0, count), each once, on any thread and in any order;
  // `worker` in [0, size()) is the running thread's number, for scratch. Tasks compute without
  // subnormal numbers (kernels/flush_subnormals.h). Returns when all are done.
  // One caller at a time, no nesting. Allocates nothing.
  void Run(int64_t count, Task task);

 private:
  // The tasks of a run that a thread takes before it helps the others: consecutive ones, so that it
  // reads memory in order. Each has a cache line of its own, which only helpers write besides.
  struct alignas(64) Part {
    // Upper 32 bits: number of the run; lower 32: tasks not yet claimed. One word, so that a thread
    // that comes late to a run can never claim a task of the next one.
    std::atomic<uint64_t> ticket{0};
  };

  // What all threads write, each in a cache line of its own. Not within the pool: such an alignment
  // would then be the pool's, and gcc's address sanitizer does not give it to what is on a stack.
  struct Words {
    alignas(64) std::atomic<int64_t> unfinished{0};
    // Number of the run, once all of its tasks can be claimed: what workers wait for.
    alignas(64) std::atomic<uint32_t> run{0};
    alignas(64) std::atomic<int> sleeping{0};
  };

  void WorkerLoop(int worker);
  // Claims and runs tasks until none is left to claim.
  void RunTasks(int worker);
  void RunPart(int part, int worker);
  // For the tasks that other threads have claimed.
  void WaitForOthers();
  // One past the last task of a part.
  int64_t End(int part) const { return count_ * (part + 1) / size_; }

  const int size_;
  const bool spins_;  // Every thread has a CPU.
  std::vector<std::thread> threads_;
  std::vector<Part> parts_;  // (size_)
  // Published by the tickets.
  const Task* task_ = nullptr;
  int64_t count_ = 0;
  const std::unique_ptr<Words> words_;
  std::atomic<bool> stop_{false};
  std::mutex mutex_;                     // Only for sleeping and waking.
  std::condition_variable wake_, done_;  // Workers wait for a run; the caller, for its end.
};

}  // namespace packrat

#endif  // PACKRAT_KERNELS_THREAD_POOL_H_
