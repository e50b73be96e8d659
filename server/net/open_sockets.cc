#include "server/net/open_sockets.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>

namespace packrat {
namespace {

constexpr std::chrono::milliseconds kSweepPause{100};

// 0 if it is closed.
ino_t InodeOf(int fd) {
  struct stat file = {};
  return fstat(fd, &file) == 0 ? file.st_ino : 0;
}

}  // namespace

bool OpenSockets::Add(int fd, Time now) {
  MutexLock lock(&mutex_);
  if (static_cast<int>(sockets_.size()) >= limit_ && now - last_sweep_ >= kSweepPause) {
    last_sweep_ = now;
    Sweep();
  }
  if (static_cast<int>(sockets_.size()) >= limit_) return false;
  sockets_.emplace_back(fd, InodeOf(fd));
  return true;
}

int OpenSockets::Count() {
  MutexLock lock(&mutex_);
  Sweep();
  return static_cast<int>(sockets_.size());
}

bool OpenSockets::AnyUnsent() {
  MutexLock lock(&mutex_);
  Sweep();
  return std::any_of(sockets_.begin(), sockets_.end(), [](const auto& s) {
    int bytes = 0;
    return ioctl(s.first, SIOCOUTQ, &bytes) == 0 && bytes > 0;
  });
}

void OpenSockets::EndReading() {
  MutexLock lock(&mutex_);
  Sweep();
  for (const auto& [fd, inode] : sockets_) shutdown(fd, SHUT_RD);
}

void OpenSockets::Sweep() {
  sockets_.erase(std::remove_if(sockets_.begin(), sockets_.end(),
                                [](const auto& s) { return InodeOf(s.first) != s.second; }),
                 sockets_.end());
}

}  // namespace packrat
