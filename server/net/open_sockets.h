// Counts and ends sockets that gRPC owns: it closes them itself and has no callback for that.
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

  // False: as many as allowed are open. At the limit it looks for closed sockets only ten times a
  // second, since this takes a system call for each.
  bool Add(int fd, Time now);
  int Count();

  // Whether something was written to one that its other end has not received yet.
  bool AnyUnsent();
  // From now on, reading from one gives what has arrived and then the end of the input.
  void EndReading();

 private:
  void Sweep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int limit_;
  Mutex mutex_;
  // A descriptor and its inode. Numbers of descriptors are soon reused, inodes of sockets only
  // after 2^32 more.
  std::vector<std::pair<int, ino_t>> sockets_ ABSL_GUARDED_BY(mutex_);
  Time last_sweep_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_NET_OPEN_SOCKETS_H_
