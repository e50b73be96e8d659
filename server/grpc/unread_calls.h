// Limits the number and age of calls that have begun and whose message has not arrived yet. Each
// holds some kilobytes and up to --max_message_bytes of its message. Without a limit, a client that
// never finishes its messages could use any amount of memory.
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
    // Most calls, however young; one more ends the oldest. A message that is sent at once arrives
    // long before its call is the oldest of so many.
    int most = 4096;
    // A call older than this is slow: a message needs less time to arrive.
    Duration young{2000};
    // Most slow calls; beyond this the oldest end. They hold at most this many messages.
    int most_slow = 64;
  };
  explicit UnreadCalls(Options options) : options_(options) {}

  // Ends a call with a status. Any thread may call it, and it does not wait.
  using End = std::function<void(const absl::Status&)>;
  // Returns the number of the call, for Leave().
  uint64_t Enter(Time now, End end);
  // Its message has arrived, or it is over. `end` is not called after this, but may be running.
  void Leave(uint64_t id);
  // Ends calls that are too old or too many. Call it a few times a second.
  void Sweep(Time now);

  int count() const;
  int64_t ended() const { return ended_.load(); }  // Since the start.

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
