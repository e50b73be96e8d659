// Bytes that many calls may hold together.
#ifndef PACKRAT_SERVER_GENERATION_BYTE_BUDGET_H_
#define PACKRAT_SERVER_GENERATION_BYTE_BUDGET_H_

#include <cstdint>

#include "runtime/mutex.h"

namespace packrat {

class ByteBudget {
 public:
  explicit ByteBudget(int64_t limit) : limit_(limit) {}

  // False, and nothing is taken: so many are not left.
  bool Take(int64_t bytes) {
    MutexLock lock(&mutex_);
    if (bytes > limit_ - used_) return false;
    used_ += bytes;
    return true;
  }
  void Give(int64_t bytes) {
    MutexLock lock(&mutex_);
    used_ -= bytes;
  }
  int64_t used() const {
    MutexLock lock(&mutex_);
    return used_;
  }
  int64_t limit() const { return limit_; }

 private:
  const int64_t limit_;
  mutable Mutex mutex_;
  int64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_BYTE_BUDGET_H_
