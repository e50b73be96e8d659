#include "runtime/state_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "models/weights.h"
#include "runtime/pending_file.h"

namespace packrat {
namespace {

namespace fs = std::filesystem;

constexpr absl::string_view kPrefix = "state-";

}  // namespace

absl::StatusOr<std::unique_ptr<StateFolder>> StateFolder::Open(std::string path, StateOwner owner) {
  std::error_code error;
  if (fs::create_directories(path, error)) {
    fs::permissions(path, fs::perms::owner_all, error);
  }
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat(path, ": cannot be made"));
  }
  // Not the name of a session store's lock (directory_store.cc), which may be in the same folder.
  const int fd = open((path + "/states.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be written"));
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    close(fd);
    if (reason != EWOULDBLOCK) {
      return absl::ErrnoToStatus(reason, absl::StrCat(path, ": cannot be locked"));
    }
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": another process keeps its states there"));
  }
  std::unique_ptr<StateFolder> folder(new StateFolder(std::move(path), fd, std::move(owner)));
  folder->RemoveAll();
  return folder;
}

StateFolder::~StateFolder() {
  RemoveAll();
  close(lock_fd_);
}

void StateFolder::RemoveAll() const {
  std::error_code error;
  // Not by a range, which throws what goes wrong.
  for (fs::directory_iterator it(path_, error); it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    absl::string_view number = name;
    uint64_t ours;  // Other files may begin so as well.
    if (absl::ConsumePrefix(&number, kPrefix) && absl::SimpleAtoi(number, &ours) &&
        PathOf(ours) == absl::StrCat(path_, "/", name)) {
      unlink(PathOf(ours).c_str());
    }
  }
}

std::string StateFolder::PathOf(uint64_t name) const {
  return absl::StrCat(path_, "/", kPrefix, name);
}

absl::StatusOr<StateFolder::Seal> StateFolder::Write(uint64_t name, const SavedState& state) const {
  const std::string header = EncodeHeader(state, owner_);
  const absl::Status status = WriteWholeFile(PathOf(name), {header, state.parts});
  if (!status.ok()) return status;
  return Seal{header.size(), HashBytes(0, header.data(), header.size())};
}

absl::StatusOr<SavedState> StateFolder::Read(uint64_t name, const Seal& seal, size_t most,
                                             const std::function<void()>& answered) const {
  constexpr size_t kPieceBytes = kMostPieceBytes;
  std::string bytes;
  for (size_t came = kPieceBytes; came == kPieceBytes;) {
    absl::StatusOr<std::string> piece = ReadFileAt(PathOf(name), static_cast<int64_t>(bytes.size()),
                                                   std::min(kPieceBytes, most - bytes.size()));
    if (!piece.ok()) return piece.status();
    came = piece->size();
    if (bytes.empty()) {
      bytes = *std::move(piece);  // Mostly all there is: memory of its own would cost more.
      if (came == kPieceBytes) bytes.reserve(most);
    } else {
      bytes += *piece;
    }
    answered();
  }
  // The header has the hash of the rest. A file that is whole may still be another state's.
  if (bytes.size() < seal.header_bytes ||
      HashBytes(0, bytes.data(), seal.header_bytes) != seal.header_hash) {
    return absl::DataLossError(absl::StrCat(PathOf(name), ": is not the file that was written"));
  }
  return DecodeSavedState(std::move(bytes), owner_);
}

absl::Status StateFolder::WritePiece(uint64_t name, int64_t at, absl::string_view bytes) const {
  return WriteFileAt(PathOf(name), at, bytes);
}

absl::StatusOr<std::string> StateFolder::ReadPiece(uint64_t name, int64_t at, size_t bytes) const {
  absl::StatusOr<std::string> piece = ReadFileAt(PathOf(name), at, bytes);
  if (piece.ok() && piece->size() < bytes) {
    return absl::DataLossError(absl::StrCat(PathOf(name), ": is not the file that was written"));
  }
  return piece;
}

void StateFolder::Remove(uint64_t name) const { unlink(PathOf(name).c_str()); }

}  // namespace packrat
