// Reads files that are not trusted.
#ifndef PACKRAT_MODELS_FILES_FILE_H_
#define PACKRAT_MODELS_FILES_FILE_H_

#include <cstddef>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace packrat {

// A regular file, open for reading. It is not mapped: a process is killed if it reads beyond the
// end of a mapped file that was cut.
class File {
 public:
  // NOT_FOUND if it does not exist. INVALID_ARGUMENT, with path and reason, if it cannot be opened,
  // is not a regular file, or is a link to nothing: somebody meant it to be a file.
  static absl::StatusOr<File> Open(const std::string& path);
  File(File&& other) noexcept;
  File& operator=(File&& other) = delete;
  ~File();

  const std::string& path() const { return path_; }
  size_t bytes() const { return bytes_; }  // When it was opened.
  // Reads `bytes` from byte `first` on. INVALID_ARGUMENT if the file was cut since it was opened,
  // INTERNAL if it cannot be read. Any thread may call it.
  absl::Status Read(size_t first, size_t bytes, void* to) const;

 private:
  File(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  int fd_;
  size_t bytes_ = 0;
};

// The text of a whole file. Errors as of File, and INVALID_ARGUMENT if it has more than
// `max_bytes`.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes);

}  // namespace packrat

#endif  // PACKRAT_MODELS_FILES_FILE_H_
