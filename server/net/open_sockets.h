// Counts sockets that somebody else closes without telling, and ends them: gRPC keeps those that it
// was given, and has no callback for their end.
#ifndef PACKRAT_SERVER_NET_OPEN_SOCKETS_H_
#define PACKRAT_SERVER_NET_OPEN_SOCKETS_H_

#include <sys/types.h>

#include <chrono>
#include <utility>
#include <vector>

#include "runtime/mutex.h"

namespace packrat {

// Thread-safe.
class OpenSockets {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit OpenSockets(int limit) : limit_(limit) {}

  // False: as many as allowed are open. At the limit it looks for closed ones only ten times a
  // second: a look takes a system call for each socket.
  bool Add(int fd, Time now);
  int Count();

  // Something was written that the other end of one has not taken yet.
  bool AnyUnsent();
  // Whoever reads from one sees the end of the input, behind what has come.
  void EndReading();

 private:
  void Sweep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int limit_;
  Mutex mutex_;
  // A descriptor and the inode behind it: numbers of descriptors are used again, those of sockets
  // only after 2^32 more.
  std::vector<std::pair<int, ino_t>> sockets_ ABSL_GUARDED_BY(mutex_);
  Time last_sweep_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_NET_OPEN_SOCKETS_H_
