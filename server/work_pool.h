// Threads for work whose length a client decides, such as texts to tokenize. gRPC's own threads do
// the writes of every stream, so nothing that takes milliseconds may run there. A pool has few
// threads. Their priority is lower than that of the engine's threads, which may use every core. The
// amount of waiting work is limited.
#ifndef PACKRAT_SERVER_WORK_POOL_H_
#define PACKRAT_SERVER_WORK_POOL_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "runtime/mutex.h"

namespace packrat {

class WorkPool {
 public:
  // Work on a message of at most this many bytes takes about a millisecond, less than waiting in a
  // pool behind others. It may be done where it arrives.
  static constexpr size_t kShortBytes = 4096;

  struct Options {
    int threads = 0;                       // 0: one for four cores, in [1, 4].
    int max_queue = 256;                   // Pieces of work that wait.
    size_t max_bytes = size_t{64} << 20;   // Of their messages together.
    const char* what = "long texts";       // Of which too many wait, and the limit's flag: for the
    const char* limit = "max_text_queue";  // message.
  };
  explicit WorkPool(const Options& options);
  // Finishes the waiting work first, since its callers wait for it.
  ~WorkPool();
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  // Of a piece of work; no two have the same.
  using Ticket = uint64_t;

  // A thread of the pool calls `work` once, in the order of arrival. `bytes` is the size of the
  // message that it keeps alive until then. `ticket`, where given, gets its own before that.
  // RESOURCE_EXHAUSTED: too much waits, and `work` is not called.
  absl::Status Submit(size_t bytes, std::function<void()> work, Ticket* ticket = nullptr);
  // Work that has not been started never will be, and others have its place.
  void Withdraw(Ticket ticket);
  // Pieces of work that have not been started.
  int waiting() const;

 private:
  struct Item {
    Ticket ticket;
    size_t bytes;
    std::function<void()> work;
  };
  void Loop();

  const Options options_;
  mutable Mutex mutex_;
  std::condition_variable wake_;
  std::deque<Item> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  Ticket last_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_WORK_POOL_H_
