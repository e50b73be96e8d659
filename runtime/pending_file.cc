#include "runtime/pending_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

absl::Status Failed(absl::string_view path, absl::string_view what) {
  const int error = errno;
  const std::string message = absl::StrCat(path, ": cannot ", what);
  if (error == EDQUOT || error == EFBIG) {
    return absl::ResourceExhaustedError(
        absl::StrCat(message, ": ", absl::ErrnoToStatus(error, "").message()));
  }
  return absl::ErrnoToStatus(error, message);
}

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
}

absl::Status WriteAll(int fd, absl::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Failed(path, "write");
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadSome(int fd, size_t size, const std::string& path) {
  std::string bytes(size, '\0');
  size_t read_bytes = 0;
  while (read_bytes < size) {
    const ssize_t got = read(fd, bytes.data() + read_bytes, size - read_bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Failed(path, "read");
    if (got == 0) break;
    read_bytes += static_cast<size_t>(got);
  }
  bytes.resize(read_bytes);
  return bytes;
}

absl::StatusOr<PendingFile> PendingFile::Create(const std::string& path) {
  std::string temporary = absl::StrCat(FolderOf(path), "/", kPrefix, "XXXXXX");
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return Failed(path, "make a file beside it");
  return PendingFile(path, std::move(temporary), fd);
}

absl::Status PendingFile::Append(absl::string_view bytes) { return WriteAll(fd_, bytes, path_); }

absl::Status PendingFile::Overwrite(absl::string_view bytes) {
  if (lseek(fd_, 0, SEEK_SET) < 0) return Failed(path_, "write");
  return WriteAll(fd_, bytes, path_);
}

absl::Status PendingFile::Sync() {
  absl::Status status;
  if (fsync(fd_) != 0) status = Failed(path_, "write");
  if (close(std::exchange(fd_, -1)) != 0 && status.ok()) status = Failed(path_, "write");
  return status;
}

absl::StatusOr<PendingFile> PendingFile::Write(const std::string& path,
                                               absl::Span<const absl::string_view> pieces) {
  absl::StatusOr<PendingFile> file = Create(path);
  if (!file.ok()) return file.status();
  absl::Status status;
  for (size_t i = 0; i < pieces.size() && status.ok(); ++i) status = file->Append(pieces[i]);
  if (status.ok()) status = file->Sync();
  if (!status.ok()) return status;
  return file;
}

PendingFile::PendingFile(PendingFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, "")),
      fd_(std::exchange(other.fd_, -1)) {}

PendingFile::~PendingFile() {
  if (fd_ >= 0) close(fd_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status PendingFile::Commit() {
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return Failed(path_, "write");
  temporary_.clear();
  // The name is on the disk once its folder is.
  const int folder = open(FolderOf(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return Failed(path_, "open its folder");
  absl::Status status;
  if (fsync(folder) != 0) status = Failed(path_, "write its folder");
  close(folder);
  return status;
}

absl::Status WriteWholeFile(const std::string& path, absl::Span<const absl::string_view> pieces) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return Failed(path, "make");
  absl::Status status;
  for (size_t i = 0; i < pieces.size() && status.ok(); ++i) status = WriteAll(fd, pieces[i], path);
  if (close(fd) != 0 && status.ok()) status = Failed(path, "write");
  if (!status.ok()) unlink(path.c_str());
  return status;
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path, size_t max_bytes) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Failed(path, "open");
  absl::Cleanup close_it = [fd] { close(fd); };
  struct stat stat;
  if (fstat(fd, &stat) != 0) return Failed(path, "read");
  if (!S_ISREG(stat.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a file"));
  }
  const auto size = static_cast<size_t>(stat.st_size);
  if (size > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": has ", size, " bytes; range [0, ", max_bytes, "]"));
  }
  return ReadSome(fd, size, path);
}

absl::Status WriteFileAt(const std::string& path, int64_t at, absl::string_view bytes) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return Failed(path, "make");
  absl::Status status;
  if (lseek(fd, at, SEEK_SET) < 0) status = Failed(path, "write");
  if (status.ok()) status = WriteAll(fd, bytes, path);
  if (close(fd) != 0 && status.ok()) status = Failed(path, "write");
  return status;
}

absl::StatusOr<std::string> ReadFileAt(const std::string& path, int64_t at, size_t bytes) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Failed(path, "open");
  absl::Cleanup close_it = [fd] { close(fd); };
  if (lseek(fd, at, SEEK_SET) < 0) return Failed(path, "read");
  return ReadSome(fd, bytes, path);
}

}  // namespace packrat
