// std::mutex under Clang's thread-safety analysis (libstdc++ does not annotate its own). Not
// absl::Mutex: the distribution's is not built for ThreadSanitizer, which then reports correct
// code.
#ifndef PACKRAT_RUNTIME_MUTEX_H_
#define PACKRAT_RUNTIME_MUTEX_H_

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"

namespace packrat {

class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  friend class MutexLock;
  std::mutex mutex_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : lock_(mutex->mutex_) {}
  ~MutexLock() ABSL_UNLOCK_FUNCTION() {}
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  // Give the mutex up until `condition` is notified (or `time` has come); may wake for no reason.
  void Wait(std::condition_variable* condition) { condition->wait(lock_); }
  void WaitUntil(std::condition_variable* condition, std::chrono::steady_clock::time_point time) {
    condition->wait_until(lock_, time);
  }

 private:
  std::unique_lock<std::mutex> lock_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_MUTEX_H_
