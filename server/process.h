// The server as a process: its threads, signals, its end, and its service manager.
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

// Ends the process with the message of the exception that nobody has caught, as a failed check
// does; for std::set_terminate.
[[noreturn]] void DieOfException();

// RESOURCE_EXHAUSTED unless so many more threads can be started, which it tries: a server that
// could not start one later, under load or while it drains, would have to abort.
absl::Status CheckThreads(int count);

// Signals that end the server. They are taken by one thread that waits for them: nothing runs in a
// handler, and the first process of a container, which has no default handlers, gets them too.
class StopSignals {
 public:
  // Blocks them, in all threads that are made from here on. Lives to the end of the process. A pipe
  // without a reader and a file at its limit (ulimit -f) are errors of whoever writes, no signals.
  StopSignals();

  // Takes them from here on. The first one ends the process with 0 after `stopped`, until
  // SetServing(); from then on it ends Wait(). The second ends the process with 1 at once, unless
  // it comes so soon that it must be an echo of the first.
  void Start(std::function<void()> stopped);
  void SetServing() { serving_.store(true); }

  // Blocks until there is a signal or EndWait(). The signal's number, or 0.
  int Wait();
  void EndWait();

  // Ends the process with 1 after `time`, unless it has ended by then; calls `last_words` before.
  // Once. On the thread of the signals, since it may be impossible to start another one by then.
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
