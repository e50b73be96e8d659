#include "kernels/check.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>

namespace packrat {

void Die(const std::string& text) {
  using Clock = std::chrono::steady_clock;
  const std::string line = text + "\n";
  const Clock::time_point end = Clock::now() + std::chrono::seconds(1);
  // Not stdio: another thread may hold its lock in a write that never returns. All processes that
  // have this pipe or terminal share its mode, so it is put back.
  const int mode = fcntl(STDERR_FILENO, F_GETFL);
  fcntl(STDERR_FILENO, F_SETFL, mode | O_NONBLOCK);
  for (size_t done = 0; done < line.size();) {
    const ssize_t n = write(STDERR_FILENO, line.data() + done, line.size() - done);
    if (n >= 0) {
      done += n;
      continue;
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    if ((errno != EAGAIN && errno != EINTR) || left.count() <= 0) break;
    pollfd room = {STDERR_FILENO, POLLOUT, 0};
    poll(&room, 1, static_cast<int>(left.count()));
  }
  fcntl(STDERR_FILENO, F_SETFL, mode);
  std::abort();
}

}  // namespace packrat
