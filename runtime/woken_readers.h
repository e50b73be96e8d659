// Those who read outboxes and were woken after a step. Where the host computes, the next step takes
// all of its processors, and a reader that was woken waits until the system takes one away from it:
// a slice of its time, several milliseconds. So the engine lets readers run first.
#ifndef PACKRAT_RUNTIME_WOKEN_READERS_H_
#define PACKRAT_RUNTIME_WOKEN_READERS_H_

#include <condition_variable>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "runtime/mutex.h"

namespace packrat {

class WokenReaders {
 public:
  // The engine's thread: those of steps before are waited for no more.
  void NextStep();
  // One more is waited for. Returns the number of the step, for Settle().
  uint64_t Add();
  // Until all have settled, but at most so long. Returns how long it was, 0 where all had.
  absl::Duration Wait(absl::Duration most);

  // Any thread: one that was added at that step has done all it can.
  void Settle(uint64_t step);

 private:
  Mutex mutex_;
  std::condition_variable all_settled_;
  uint64_t step_ ABSL_GUARDED_BY(mutex_) = 0;
  int left_ ABSL_GUARDED_BY(mutex_) = 0;
};

// How long the engine may wait for them: a part of the time of its steps, which it saves up while
// readers are quick. Mostly they are done long before.
class ReadersTime {
 public:
  // After a step of that length, whose readers are `late` if some have not come since the step
  // before: the most to wait, or 0. After a short step only late ones are waited for: what the
  // others miss now, they get after the next.
  absl::Duration After(absl::Duration step, bool late);
  void Spend(absl::Duration waited) { saved_ -= waited; }

 private:
  absl::Duration saved_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_WOKEN_READERS_H_
