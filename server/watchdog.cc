#include "server/watchdog.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "runtime/steady_clock.h"
#include "runtime/thread_name.h"

namespace packrat {

bool StallDetector::Update(absl::Time now, const EngineProgress& progress) {
  // If the process was stopped, or the machine slept, the engine is not to blame. So at most a look
  // or two count.
  const absl::Duration passed = std::min(now - last_, longest_gap_);
  last_ = now;
  if (!progress.has_work || progress.steps != steps_) {
    steps_ = progress.steps;
    still_ = absl::ZeroDuration();
  } else {
    still_ += passed;
  }
  return still_ >= timeout_;
}

Watchdog::Watchdog(absl::Duration timeout, std::function<EngineProgress()> progress,
                   std::function<void(bool)> on_change)
    : interval_(std::min(timeout / 10, absl::Seconds(1))),
      progress_(std::move(progress)),
      on_change_(std::move(on_change)),
      detector_(timeout, interval_),
      thread_([this] { Run(); }) {}

Watchdog::~Watchdog() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Watchdog::Run() {
  using Clock = std::chrono::steady_clock;
  SetThreadName("packrat-watch");
  bool stalled = false;
  for (;;) {
    {
      MutexLock lock(&mutex_);
      const Clock::time_point until = Clock::now() + absl::ToChronoNanoseconds(interval_);
      while (!stop_ && Clock::now() < until) lock.WaitUntil(&wake_, until);
      if (stop_) return;
    }
    const bool now = detector_.Update(SteadyNow(), progress_());
    if (now != stalled) on_change_(now);
    stalled = now;
  }
}

}  // namespace packrat
