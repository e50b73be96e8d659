#include "server/net/gentle_close.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/mutex.h"
#include "runtime/thread_name.h"

namespace packrat {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kPatience{2};
constexpr size_t kMost = 64;  // Descriptors beyond those of --max_connections.
constexpr int kLookAgainMs = 100;
constexpr std::chrono::milliseconds kLookPause{100};
constexpr size_t kMostBytes = size_t{1} << 20;

ino_t InodeOf(int fd) {
  struct stat file = {};
  return fstat(fd, &file) == 0 ? file.st_ino : 0;
}

int PlainShutdown(int fd, int how) { return static_cast<int>(syscall(SYS_shutdown, fd, how)); }

std::vector<int> EventPolls() {
  std::vector<int> found;
  DIR* dir = opendir("/proc/self/fd");
  if (dir == nullptr) return found;
  while (const dirent* entry = readdir(dir)) {
    char target[64];
    const std::string path = absl::StrCat("/proc/self/fd/", entry->d_name);
    const ssize_t size = readlink(path.c_str(), target, sizeof(target));
    if (size > 0 && std::string(target, size) == "anon_inode:[eventpoll]") {
      found.push_back(std::atoi(entry->d_name));
    }
  }
  closedir(dir);
  return found;
}

// Never destroyed: sockets may be closed while the process ends.
class GentleCloses {
 public:
  static GentleCloses& Get() {
    static auto* const all = new GentleCloses;
    return *all;
  }

  void Choose(int fd) {
    MutexLock lock(&mutex_);
    chosen_[fd] = InodeOf(fd);
  }

  int Shutdown(int fd, int how) {
    if (how != SHUT_RDWR) return PlainShutdown(fd, how);
    MutexLock lock(&mutex_);
    const auto found = chosen_.find(fd);
    if (found == chosen_.end()) return PlainShutdown(fd, how);
    const bool same = found->second == InodeOf(fd);
    chosen_.erase(found);
    // The library's poll would still report this socket, since it stays open after its number was
    // closed.
    if (!same || sockets_.size() >= kMost || !Unwatch(fd)) return PlainShutdown(fd, how);
    const int kept = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (kept < 0) return PlainShutdown(fd, how);
    sockets_.push_back({kept, Clock::now() + kPatience, 0});
    if (!running_) std::thread([this] { Loop(); }).detach();
    running_ = true;
    eventfd_write(wake_, 1);
    return PlainShutdown(fd, SHUT_WR);
  }

  void Wait(std::chrono::milliseconds time) {
    const auto until = Clock::now() + time;
    MutexLock lock(&mutex_);
    while (!sockets_.empty() && Clock::now() < until) lock.WaitUntil(&none_left_, until);
  }

 private:
  struct Socket {
    int fd;
    Clock::time_point until;
    size_t bytes;
  };

  // False: nobody polls it, or we cannot end the polling.
  bool Unwatch(int fd) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto removed_from = [fd](int poll) {
      return epoll_ctl(poll, EPOLL_CTL_DEL, fd, nullptr) == 0;
    };
    if (std::any_of(polls_.begin(), polls_.end(), removed_from)) return true;
    // With thousands of descriptors, looking at all takes milliseconds.
    const auto now = Clock::now();
    if (now - last_look_ < kLookPause) return false;
    last_look_ = now;
    polls_ = EventPolls();
    return std::any_of(polls_.begin(), polls_.end(), removed_from);
  }

  void Loop() {
    SetThreadName("packrat-closing");
    std::vector<pollfd> polled;
    for (;;) {
      polled.assign(1, {wake_, POLLIN, 0});
      {
        MutexLock lock(&mutex_);
        for (const Socket& socket : sockets_) polled.push_back({socket.fd, POLLIN, 0});
      }
      poll(polled.data(), polled.size(), polled.size() > 1 ? kLookAgainMs : -1);
      eventfd_t ignored;
      eventfd_read(wake_, &ignored);
      MutexLock lock(&mutex_);
      const auto now = Clock::now();
      sockets_.erase(std::remove_if(sockets_.begin(), sockets_.end(),
                                    [now](Socket& socket) { return CloseIfOver(now, &socket); }),
                     sockets_.end());
      if (sockets_.empty()) none_left_.notify_all();
    }
  }

  static bool CloseIfOver(Clock::time_point now, Socket* socket) {
    char bytes[16384];
    ssize_t n;
    while ((n = recv(socket->fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0 &&
           socket->bytes < kMostBytes) {
      socket->bytes += n;
    }
    const bool waits = n < 0 && (errno == EAGAIN || errno == EINTR);
    if (waits && now < socket->until) return false;
    close(socket->fd);
    return true;
  }

  Mutex mutex_;
  std::condition_variable none_left_;
  std::unordered_map<int, ino_t> chosen_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> polls_ ABSL_GUARDED_BY(mutex_);  // Polls that watched one lately.
  Clock::time_point last_look_ ABSL_GUARDED_BY(mutex_);
  std::vector<Socket> sockets_ ABSL_GUARDED_BY(mutex_);
  bool running_ ABSL_GUARDED_BY(mutex_) = false;
  const int wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
};

}  // namespace

void CloseGently(int fd) { GentleCloses::Get().Choose(fd); }

void WaitForGentleCloses(std::chrono::milliseconds time) { GentleCloses::Get().Wait(time); }

}  // namespace packrat

// Replaces the C library's function in the whole process.
extern "C" int shutdown(int fd, int how) noexcept {
  return packrat::GentleCloses::Get().Shutdown(fd, how);
}
