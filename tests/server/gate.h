// Steps of an engine that a test lets through, and what it waits for.
#ifndef PACKRAT_TESTS_SERVER_GATE_H_
#define PACKRAT_TESTS_SERVER_GATE_H_

#include <condition_variable>
#include <functional>

#include "runtime/mutex.h"

namespace packrat {

// Holds the engine's thread at the start of a step.
class Gate {
 public:
  void Close();
  void Open();
  // While closed: lets so many steps through. WaitUntilHeld() then waits for the one after them.
  void Allow(int steps);
  // Blocks until a step waits at the closed gate.
  void WaitUntilHeld();
  void Pass();  // The engine's side.

 private:
  Mutex mutex_;
  std::condition_variable changed_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  int allowed_ ABSL_GUARDED_BY(mutex_) = 0;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
};

// True as soon as `condition` is; false after half a minute of waiting for it.
bool Eventually(const std::function<bool()>& condition);

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_GATE_H_
