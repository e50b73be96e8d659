#include "server/generation/call_environment.h"

#include <sys/random.h>

#include <chrono>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "runtime/steady_clock.h"

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
    const absl::Duration left = deadline - SteadyNow();
    if (left <= absl::ZeroDuration()) return false;
    lock.WaitUntil(&none_, std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(left));
  }
  return true;
}

uint64_t RandomNumber() {
  uint64_t number = 0;
  // So few bytes come at once and complete, except just after the machine has booted.
  PACKRAT_CHECK(getrandom(&number, sizeof number, 0) == sizeof number, "no random numbers");
  return number;
}

absl::Status CallEnvironment::TakesCalls() const {
  if (closed.load()) return absl::UnavailableError("the server is draining; ask another replica");
  const ServedModel* model = served.load();
  if (model == nullptr) return absl::UnavailableError("the model is still being loaded");
  // Asked before the engine, which may stand still and hold its lock.
  if (stalled.load()) {
    return absl::UnavailableError(absl::StrCat("the engine has made no step for ",
                                               absl::FormatDuration(options->stall_timeout)));
  }
  return model->engine->failure();
}

absl::Status CallEnvironment::Ready() const {
  return draining.load() ? absl::UnavailableError("draining") : TakesCalls();
}

}  // namespace packrat
