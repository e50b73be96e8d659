// A call that waits for the session store, for as long as its client does.
#ifndef PACKRAT_SERVER_GENERATION_STORE_WAIT_H_
#define PACKRAT_SERVER_GENERATION_STORE_WAIT_H_

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runtime/mutex.h"
#include "server/generation/call_environment.h"
#include "server/stream_writer.h"

namespace packrat {

// Thread-safe. Work goes to the threads that may wait for the store, and the call hears of its end;
// or, as soon as the client has gone or the call's deadline has passed, of that: then work that has
// not begun leaves its place to others and is never done, and what has begun goes on by itself.
class StoreWait final : public Stream, public std::enable_shared_from_this<StoreWait> {
 public:
  // It may go on when the call is over, so whatever it uses is its own. It ends early where it can
  // once gone() is true.
  using Work = std::function<absl::Status()>;
  using Done = std::function<void(const absl::Status&)>;

  // `started` and `deadline`: of the call, on the clock of SteadyNow().
  StoreWait(CallEnvironment* environment, absl::Time started, absl::Time deadline)
      : environment_(environment), started_(started), deadline_(deadline) {}

  // Once, where there is a store. `bytes`: of the message that the work keeps alive. `done` is
  // called exactly once, from any thread, also inside of this: with the status of the work, those
  // of UnlessNoMemory() and WorkPool::Submit() included; CANCELLED; or DEADLINE_EXCEEDED.
  void Start(size_t bytes, Work work, Done done);
  // The client has gone; at any time, more than once if need be.
  void Leave();
  bool gone() const { return gone_.load(); }

  // Stream, for the writer's thread.
  void Pump() override;
  void CheckReader(absl::Time now) override;

 private:
  void DoWork(const Work& work);
  // Calls `done`, unless it was called.
  void End(const absl::Status& status);
  absl::Status Left() const;

  CallEnvironment* const environment_;
  const absl::Time started_, deadline_;
  std::atomic<bool> gone_{false};
  Mutex mutex_;
  Done done_ ABSL_GUARDED_BY(mutex_);  // Null: nothing waits.
  // Of the work, which may be in the pool's queue.
  std::optional<WorkPool::Ticket> ticket_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_STORE_WAIT_H_
