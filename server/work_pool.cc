#include "server/work_pool.h"

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

// A tenth of a CPU's time if a thread of normal priority needs all of it, and all of it if none
// does.
constexpr int kNice = 10;

// Lowers the priority of the calling thread; on Linux each thread has its own. The system may
// refuse this, and the work is done all the same. With SCHED_BATCH a thread that wakes up
// interrupts nobody.
void LowerPriority() {
  const sched_param none = {};
  pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice);
}

int NumThreads(int requested) {
  if (requested > 0) return requested;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 4, 1, 4);
}

}  // namespace

WorkPool::WorkPool(const Options& options) : options_(options) {
  for (int i = NumThreads(options.threads); i > 0; --i) threads_.emplace_back([this] { Loop(); });
}

WorkPool::~WorkPool() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

absl::Status WorkPool::Submit(size_t bytes, std::function<void()> work, Ticket* ticket) {
  {
    MutexLock lock(&mutex_);
    const size_t waiting = queue_.size();
    if (waiting >= static_cast<size_t>(options_.max_queue) ||
        (waiting > 0 && queued_bytes_ + bytes > options_.max_bytes)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("too many ", options_.what, ": ", waiting, " calls of ", queued_bytes_,
                       " bytes wait for theirs (", options_.limit, " ", options_.max_queue,
                       ", at most ", options_.max_bytes, " bytes)"));
    }
    queue_.push_back({++last_ticket_, bytes, std::move(work)});
    queued_bytes_ += bytes;
    if (ticket != nullptr) *ticket = last_ticket_;
  }
  wake_.notify_one();
  return absl::OkStatus();
}

void WorkPool::Withdraw(Ticket ticket) {
  std::function<void()> work;  // Goes without the lock: it may hold what calls this pool.
  MutexLock lock(&mutex_);
  const auto at = std::find_if(queue_.begin(), queue_.end(),
                               [ticket](const Item& item) { return item.ticket == ticket; });
  if (at == queue_.end()) return;
  work = std::move(at->work);
  queued_bytes_ -= at->bytes;
  queue_.erase(at);
}

int WorkPool::waiting() const {
  MutexLock lock(&mutex_);
  return static_cast<int>(queue_.size());
}

void WorkPool::Loop() {
  LowerPriority();
  for (;;) {
    Item item;
    {
      MutexLock lock(&mutex_);
      while (queue_.empty() && !stop_) lock.Wait(&wake_);
      if (queue_.empty()) return;
      item = std::move(queue_.front());
      queue_.pop_front();
      queued_bytes_ -= item.bytes;
    }
    item.work();
  }
}

}  // namespace packrat
