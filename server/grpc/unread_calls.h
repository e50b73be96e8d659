// Calls that have begun and whose message is not there yet: how many there may be, and for how
// long. Each holds some kilobytes and up to --max_message_bytes of its message, so that whoever
// opens them and never ends a message could take any amount of memory.
#ifndef PACKRAT_SERVER_GRPC_UNREAD_CALLS_H_
#define PACKRAT_SERVER_GRPC_UNREAD_CALLS_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "runtime/mutex.h"

namespace packrat {

// Thread-safe.
class UnreadCalls {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::milliseconds;

  struct Options {
    Duration timeout{60000};  // For the whole message.
    // Of all calls, however young; with a further one the oldest ends. A message that comes at
    // once is there long before its call is the oldest of so many.
    int most = 4096;
    // A message on its way is there in less; a call that is older is slow.
    Duration young{2000};
    // Of slow calls; beyond it the oldest end. What they hold is at most this many messages.
    int most_slow = 64;
  };
  explicit UnreadCalls(Options options) : options_(options) {}

  // Ends a call with a status, by any thread and without waiting for anything.
  using End = std::function<void(const absl::Status&)>;
  // What names the call to Leave().
  uint64_t Enter(Time now, End end);
  // Its message is there, or it is over. `end` is not called after this, but may be under way.
  void Leave(uint64_t id);
  // Ends those that are too old, or too many; to be called a few times a second.
  void Sweep(Time now);

  int count() const;
  int64_t ended() const { return ended_.load(); }  // Of all times.

 private:
  struct Call {
    Time began;
    End end;
  };

  const Options options_;
  mutable Mutex mutex_;
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<uint64_t, Call> calls_ ABSL_GUARDED_BY(mutex_);  // In the order in which they began.
  std::atomic<int64_t> ended_{0};
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_UNREAD_CALLS_H_
