// The server's process: threads, signals, its end, and its service manager.
#ifndef PACKRAT_SERVER_PROCESS_H_
#define PACKRAT_SERVER_PROCESS_H_

#include <signal.h>

#include <atomic>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runtime/mutex.h"

namespace packrat {

// Ends the process as a failed check does, with the message of the uncaught exception. For
// std::set_terminate.
[[noreturn]] void DieOfException();

// RESOURCE_EXHAUSTED unless `count` more threads can be started, which it tries. A server that
// could not start a thread later, under load or while it drains, would have to abort.
absl::Status CheckThreads(int count);

// Signals that end the server. One thread waits for them, so nothing runs in a handler, and the
// first process of a container, which has no default handlers, gets them too.
class StopSignals {
 public:
  // Blocks them in this thread and in all that it starts later. Lives to the end of the process.
  // SIGHUP ends one that has a terminal, and means nothing to others.
  // From here on, writing to a pipe without a reader or to a file at its limit (ulimit -f) is an
  // error of that write, and no signal.
  StopSignals();

  // Starts to handle signals. Before SetServing(), the first signal calls `stopped` and ends the
  // process with 0; after it, the first signal ends Wait(). The second ends the process with 1 at
  // once, unless it comes so soon that it must be an echo of the first.
  void Start(std::function<void()> stopped);
  void SetServing() { serving_.store(true); }

  // Blocks until a signal or EndWait(). Returns the signal's number, or 0.
  int Wait();
  void EndWait();

  // If the process has not ended after `time`, calls `last_words` and ends it with 1. May be called
  // once. It uses the thread of the signals, since it may be impossible to start another one by
  // then.
  void ExitAfter(absl::Duration time, std::function<void()> last_words);

 private:
  void Take(const std::function<void()>& stopped);

  sigset_t set_;
  int pipe_[2] = {-1, -1};  // The signal's number as a byte.
  std::atomic<bool> serving_{false};
  Mutex mutex_;
  std::function<void()> last_words_ ABSL_GUARDED_BY(mutex_);
};

// Sends lines of sd_notify(3) to the service manager that started this process, if there is one.
void NotifySystemd(const std::string& lines);

}  // namespace packrat

#endif  // PACKRAT_SERVER_PROCESS_H_
