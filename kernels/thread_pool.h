// A fixed set of threads for the kernels, made once.
#ifndef PACKRAT_KERNELS_THREAD_POOL_H_
#define PACKRAT_KERNELS_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace packrat {

class ThreadPool {
 public:
  // `threads` includes the calling thread: 1 starts none. 0: one per core of the machine.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls task(i, worker) for every i in [0, count), each once, on any thread and in any order;
  // worker in [0, size()) is the thread's own number (for scratch). Returns when all are done. One
  // caller at a time, no nesting. Allocates nothing.
  void Run(int64_t count, absl::FunctionRef<void(int64_t index, int worker)> task);

 private:
  void WorkerLoop(int worker);
  void Drain(int worker);

  const int size_;
  std::vector<std::thread> threads_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  int64_t count_ = 0;
  const absl::FunctionRef<void(int64_t, int)>* task_ = nullptr;
  std::atomic<bool> stop_{false};
  std::mutex mutex_;  // Only for sleeping and waking.
  std::condition_variable wake_;
  int sleeping_ = 0;  // guarded by mutex_
};

}  // namespace packrat

#endif  // PACKRAT_KERNELS_THREAD_POOL_H_
