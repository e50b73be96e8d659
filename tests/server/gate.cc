#include "tests/server/gate.h"

#include "absl/time/clock.h"
#include "runtime/steady_clock.h"

namespace packrat {

void Gate::Close() {
  MutexLock lock(&mutex_);
  closed_ = true;
  allowed_ = 0;
}

void Gate::Open() {
  MutexLock lock(&mutex_);
  closed_ = false;
  changed_.notify_all();
}

void Gate::Allow(int steps) {
  MutexLock lock(&mutex_);
  allowed_ += steps;
  held_ = false;
  changed_.notify_all();
}

void Gate::WaitUntilHeld() {
  MutexLock lock(&mutex_);
  while (!held_) lock.Wait(&changed_);
}

void Gate::Pass() {
  MutexLock lock(&mutex_);
  while (closed_ && allowed_ == 0) {
    held_ = true;
    changed_.notify_all();
    lock.Wait(&changed_);
  }
  held_ = false;
  if (closed_) --allowed_;
}

bool Eventually(const std::function<bool()>& condition) {
  const absl::Time give_up = SteadyNow() + absl::Seconds(30);
  while (!condition()) {
    if (SteadyNow() > give_up) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

}  // namespace packrat
