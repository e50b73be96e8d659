// Threads for work that a caller makes long: texts to tokenize, ids to turn into text. gRPC's own
// threads carry every stream's writes, so nothing that takes milliseconds may run there. A pool has
// few threads, below the priority of the engine's, which may have as many threads as there are
// cores; and what waits for them is bounded.
#ifndef PACKRAT_SERVER_WORK_POOL_H_
#define PACKRAT_SERVER_WORK_POOL_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "runtime/mutex.h"

namespace packrat {

class WorkPool {
 public:
  // Work on a message of at most so many bytes takes about a millisecond, less than going through a
  // pool behind others: it may be done where it arrives.
  static constexpr size_t kShortBytes = 4096;

  struct Options {
    int threads = 0;                      // 0: one for four cores, in [1, 4].
    int max_queue = 256;                  // Pieces of work that wait.
    size_t max_bytes = size_t{64} << 20;  // Of their messages together.
  };
  explicit WorkPool(const Options& options);
  // Does first what still waits: whoever handed it over waits for its end.
  ~WorkPool();
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  // `work` is called once, by a thread of the pool, in the order of arrival. `bytes`: of the
  // message that it keeps alive until then. RESOURCE_EXHAUSTED: too much waits, and `work` is not
  // called.
  absl::Status Submit(size_t bytes, std::function<void()> work);
  // Pieces of work that no thread has begun.
  int waiting() const;

 private:
  struct Item {
    size_t bytes;
    std::function<void()> work;
  };
  void Loop();

  const Options options_;
  mutable Mutex mutex_;
  std::condition_variable wake_;
  std::deque<Item> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_WORK_POOL_H_
