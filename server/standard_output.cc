#include "server/standard_output.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace packrat {

void Print(const std::string& text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (written && std::fflush(stdout) == 0) return;
  std::fprintf(stderr, "%s: cannot write to standard output: %s\n", program_invocation_short_name,
               std::strerror(errno));
  // exit() is not safe while other threads work.
  std::quick_exit(1);
}

__attribute__((no_sanitize("address", "thread", "undefined"))) void FillStandardDescriptors() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (syscall(SYS_fcntl, fd, F_GETFD) >= 0) continue;
    // The lowest free number is this one. Opened for the wrong direction, it answers EBADF.
    const int mode = fd == STDIN_FILENO ? O_WRONLY : O_RDONLY;
    if (syscall(SYS_openat, AT_FDCWD, "/dev/null", mode) != fd) syscall(SYS_exit_group, 1);
  }
}

}  // namespace packrat
