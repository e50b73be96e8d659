#include "server/process.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <future>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "runtime/thread_name.h"

namespace packrat {

void DieOfException() {
  std::string what = "terminated without an exception";
  try {
    if (const std::exception_ptr exception = std::current_exception()) {
      what = "an exception that nobody catches";
      std::rethrow_exception(exception);
    }
  } catch (const std::exception& exception) {
    absl::StrAppend(&what, ": ", exception.what());
  } catch (...) {
  }
  Die(what);
}

absl::Status CheckThreads(int count) {
  std::promise<void> end;
  const std::shared_future<void> ended = end.get_future().share();
  std::vector<std::thread> threads;
  try {
    while (static_cast<int>(threads.size()) < count) {
      threads.emplace_back([ended] { ended.wait(); });
    }
  } catch (const std::system_error&) {
  }
  end.set_value();
  for (std::thread& thread : threads) thread.join();
  const int started = static_cast<int>(threads.size());
  if (started == count) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "only ", started, " more threads can be started, and ", count,
      " are needed: a limit of processes (ulimit -u, pids.max of the cgroup, TasksMax= of "
      "systemd) or of address space (ulimit -v) is too low"));
}

StopSignals::StopSignals() {
  sigemptyset(&set_);
  sigaddset(&set_, SIGTERM);
  sigaddset(&set_, SIGINT);
  sigaddset(&set_, SIGALRM);
  pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  signal(SIGPIPE, SIG_IGN);
  // Keys and certificates are read anew without it. Where there is a terminal, that has gone.
  if (isatty(STDIN_FILENO) == 0) signal(SIGHUP, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  PACKRAT_CHECK(pipe2(pipe_, O_CLOEXEC) == 0);
}

void StopSignals::Start(std::function<void()> stopped) {
  std::thread([this, stopped = std::move(stopped)] {
    SetThreadName("packrat-signals");
    Take(stopped);
  }).detach();
}

void StopSignals::Take(const std::function<void()>& stopped) {
  using Clock = std::chrono::steady_clock;
  // A stop often arrives twice: wrappers such as timeout(1) signal the process and its group.
  constexpr auto kEcho = std::chrono::milliseconds(300);
  std::optional<Clock::time_point> first;
  for (;;) {
    int number = 0;
    sigwait(&set_, &number);
    if (number == SIGALRM) {
      MutexLock lock(&mutex_);
      if (!last_words_) continue;  // It belongs to another timer.
      last_words_();
      _exit(1);
    }
    if (!serving_.load()) {
      stopped();
      _exit(0);
    }
    if (!first.has_value()) {
      first = Clock::now();
      const char byte = static_cast<char>(number);
      if (write(pipe_[1], &byte, 1) != 1) _exit(1);
    } else if (Clock::now() - *first > kEcho) {
      _exit(1);
    }
  }
}

void StopSignals::ExitAfter(absl::Duration time, std::function<void()> last_words) {
  MutexLock lock(&mutex_);
  last_words_ = std::move(last_words);
  itimerval timer = {};
  // 0 would set no timer.
  timer.it_value = absl::ToTimeval(std::max(time, absl::Microseconds(1)));
  PACKRAT_CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
}

void NotifySystemd(const std::string& lines) {
  const char* path = getenv("NOTIFY_SOCKET");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path == nullptr || (path[0] != '/' && path[0] != '@')) return;
  const size_t size = std::strlen(path);
  if (size >= sizeof(address.sun_path)) return;
  std::memcpy(address.sun_path, path, size);
  // Marks a name that is not in the file system.
  if (path[0] == '@') address.sun_path[0] = '\0';
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  sendto(fd, lines.data(), lines.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address),
         static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + size));
  close(fd);
}

int StopSignals::Wait() {
  char byte = 0;
  while (read(pipe_[0], &byte, 1) < 0 && errno == EINTR) {
  }
  return byte;
}

void StopSignals::EndWait() {
  if (write(pipe_[1], "", 1) != 1) _exit(1);
}

}  // namespace packrat
