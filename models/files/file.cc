#include "models/files/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

absl::Status Invalid(const std::string& path, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", why));
}

}  // namespace

absl::StatusOr<File> File::Open(const std::string& path) {
  // O_NONBLOCK, so that opening a FIFO does not wait.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat info = {};
  if (fd < 0) {
    const int error = errno;
    if (error != ENOENT) return Invalid(path, std::strerror(error));
    if (lstat(path.c_str(), &info) == 0) return Invalid(path, "a link to nowhere");
    return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(error)));
  }
  File file(path, fd);
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return Invalid(path, "not a regular file");
  file.bytes_ = static_cast<size_t>(info.st_size);
  return file;
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), bytes_(other.bytes_) {}

File::~File() {
  if (fd_ >= 0) close(fd_);
}

absl::Status File::Read(size_t first, size_t bytes, void* to) const {
  auto* next = static_cast<char*>(to);
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = pread(fd_, next + done, bytes - done, static_cast<off_t>(first + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return absl::InternalError(absl::StrCat(path_, ": cannot read: ", std::strerror(errno)));
    }
    if (n == 0) {
      return Invalid(path_, absl::StrCat("ends at byte ", first + done,
                                         " and had more when it was opened: it has been cut"));
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes) {
  const absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  if (file->bytes() > max_bytes) {
    return Invalid(
        path, absl::StrCat("has ", file->bytes(), " bytes, more than the ", max_bytes, " allowed"));
  }
  std::string text(file->bytes(), '\0');
  absl::Status status = file->Read(0, text.size(), text.data());
  if (!status.ok()) return status;
  return text;
}

}  // namespace packrat
