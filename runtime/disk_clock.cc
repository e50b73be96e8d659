#include "runtime/disk_clock.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/time/clock.h"
#include "runtime/steady_clock.h"

namespace packrat {

std::optional<absl::Time> AskDisk(const std::string& folder) {
  const int fd = open((folder + "/clock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return std::nullopt;
  const absl::Cleanup close_it = [fd] { close(fd); };
  struct stat file = {};
  // Without times it is the disk that says what time it is.
  if (futimens(fd, nullptr) != 0 || fstat(fd, &file) != 0) return std::nullopt;
  return absl::TimeFromTimespec(file.st_mtim);
}

DiskClock::DiskClock(std::function<std::optional<absl::Time>()> ask, absl::Duration fresh)
    : ask_(std::move(ask)), fresh_(fresh) {}

absl::Time DiskClock::Now() {
  MutexLock lock(&mutex_);
  const absl::Time now = SteadyNow();
  if (now - asked_ >= fresh_) {
    asked_ = now;
    if (const std::optional<absl::Time> answer = ask_(); answer.has_value()) {
      answered_ = *answer;
      answered_at_ = SteadyNow();
    }
  }
  if (answered_at_ == absl::InfinitePast()) return absl::Now();
  return answered_ + (SteadyNow() - answered_at_);
}

}  // namespace packrat
