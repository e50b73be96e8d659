// Watches the engine's steps. A process whose engine stands still is neither alive nor ready,
// whatever its ports answer.
#ifndef PACKRAT_SERVER_WATCHDOG_H_
#define PACKRAT_SERVER_WATCHDOG_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <thread>

#include "absl/time/time.h"
#include "runtime/engine.h"
#include "runtime/mutex.h"

namespace packrat {

// Makes the decision. The caller passes the time.
class StallDetector {
 public:
  // Update() is called every `interval`, a small part of `timeout`.
  StallDetector(absl::Duration timeout, absl::Duration interval)
      : timeout_(timeout), longest_gap_(2 * interval) {}
  // True if there has been work and no step for `timeout`.
  bool Update(absl::Time now, const EngineProgress& progress);

 private:
  const absl::Duration timeout_;
  const absl::Duration longest_gap_;
  absl::Time last_ = absl::InfinitePast();
  int64_t steps_ = 0;
  absl::Duration still_;  // How long there has been work and no step.
};

class Watchdog {
 public:
  // Starts to watch. Its thread calls both functions. `progress` must not wait for the engine.
  // `on_change` gets true when the engine has stood still for `timeout`, false once it goes on.
  Watchdog(absl::Duration timeout, std::function<EngineProgress()> progress,
           std::function<void(bool)> on_change);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  void Run();

  const absl::Duration interval_;
  const std::function<EngineProgress()> progress_;
  const std::function<void(bool)> on_change_;
  StallDetector detector_;
  Mutex mutex_;
  std::condition_variable wake_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_WATCHDOG_H_
