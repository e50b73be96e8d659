// A file that appears under its name all at once: whoever reads it, also after a crash, finds all
// of the old bytes or all of the new ones.
#ifndef PACKRAT_RUNTIME_PENDING_FILE_H_
#define PACKRAT_RUNTIME_PENDING_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace packrat {

class PendingFile {
 public:
  // On the disk that will have `path`, readable by this user alone. Errors say path and reason:
  // RESOURCE_EXHAUSTED where the disk is full.
  static absl::StatusOr<PendingFile> Create(const std::string& path);
  absl::Status Append(absl::string_view bytes);
  absl::Status Overwrite(absl::string_view bytes);  // Its first bytes.
  // What was appended is on the disk; the last before Commit().
  absl::Status Sync();

  // All of it: the pieces, one after the other.
  static absl::StatusOr<PendingFile> Write(const std::string& path,
                                           absl::Span<const absl::string_view> pieces);
  PendingFile(PendingFile&& other) noexcept;
  PendingFile& operator=(PendingFile&& other) = delete;
  ~PendingFile();  // Removes what was not committed.

  // After Sync() or Write(). Replaces what was there; once it returns OK, a crash does not undo it.
  absl::Status Commit();

  // A crash leaves files that begin so in the folder.
  static constexpr absl::string_view kPrefix = ".pending-";

 private:
  PendingFile(std::string path, std::string temporary, int fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}
  std::string path_;
  std::string temporary_;  // Empty once it is gone.
  int fd_;                 // -1: closed.
};

// So many bytes from where an open file stands, or as many as there are.
absl::StatusOr<std::string> ReadSome(int fd, size_t bytes, const std::string& path);

// Writes a file of the pieces, readable by this user alone, for as long as the system runs: a crash
// may leave a part of it. An error leaves none; RESOURCE_EXHAUSTED: the disk is full.
absl::Status WriteWholeFile(const std::string& path, absl::Span<const absl::string_view> pieces);

// A piece of such a file, which is made if it is not there.
absl::Status WriteFileAt(const std::string& path, int64_t at, absl::string_view bytes);
// `bytes` of a file from `at` on, or as many as there are.
absl::StatusOr<std::string> ReadFileAt(const std::string& path, int64_t at, size_t bytes);

// All of a file of at most `max_bytes`. NOT_FOUND: there is none.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path, size_t max_bytes);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_PENDING_FILE_H_
