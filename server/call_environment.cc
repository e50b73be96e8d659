#include "server/call_environment.h"

#include <sys/random.h>

#include <chrono>

#include "absl/time/clock.h"
#include "kernels/check.h"

namespace packrat {

bool StreamCount::Enter(int limit) {
  MutexLock lock(&mutex_);
  if (count_ >= limit) return false;
  ++count_;
  return true;
}

void StreamCount::Leave() {
  MutexLock lock(&mutex_);
  if (--count_ == 0) none_.notify_all();
}

int StreamCount::count() const {
  MutexLock lock(&mutex_);
  return count_;
}

bool StreamCount::WaitForNone(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (count_ > 0) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    lock.WaitUntil(&none_, std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(left));
  }
  return true;
}

uint64_t RandomNumber() {
  uint64_t number = 0;
  // So few bytes come whole and at once; it fails only where the machine has just been switched on.
  PACKRAT_CHECK(getrandom(&number, sizeof number, 0) == sizeof number, "no random numbers");
  return number;
}

absl::Status CallEnvironment::Ready() const {
  if (draining.load()) return absl::UnavailableError("the server is draining; ask another replica");
  const ServedModel* model = served.load();
  if (model == nullptr) return absl::UnavailableError("the model is still being loaded");
  return model->engine->failure();
}

}  // namespace packrat
