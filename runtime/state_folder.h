// States in files of a local folder, for one process at a time. They are as good as its memory, no
// better: what an earlier process left is removed, and nothing waits for the disk's platters.
#ifndef PACKRAT_RUNTIME_STATE_FOLDER_H_
#define PACKRAT_RUNTIME_STATE_FOLDER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/saved_state.h"

namespace packrat {

class StateFolder {
 public:
  // Makes the folder if it is not there, for this user alone. FAILED_PRECONDITION: another process
  // has it; other errors: why it cannot be made or written.
  static absl::StatusOr<std::unique_ptr<StateFolder>> Open(std::string path, StateOwner owner);
  ~StateFolder();  // Removes its files.
  StateFolder(const StateFolder&) = delete;
  StateFolder& operator=(const StateFolder&) = delete;

  // By which a file is known to be the very one that was written.
  struct Seal {
    size_t header_bytes = 0;
    uint64_t header_hash = 0;
  };
  // What follows may be called by several threads at once, for different names. An error leaves no
  // file.
  absl::StatusOr<Seal> Write(uint64_t name, const SavedState& state) const;
  // At most `most` bytes of it, in pieces, after each of which it tells `answered`. DATA_LOSS: the
  // file is not what Write() has written.
  absl::StatusOr<SavedState> Read(uint64_t name, const Seal& seal, size_t most,
                                  const std::function<void()>& answered) const;
  void Remove(uint64_t name) const;
  // Of a file whose bytes are the caller's own affair.
  absl::Status WritePiece(uint64_t name, int64_t at, absl::string_view bytes) const;
  // DATA_LOSS: it is shorter.
  absl::StatusOr<std::string> ReadPiece(uint64_t name, int64_t at, size_t bytes) const;

  std::string PathOf(uint64_t name) const;

 private:
  StateFolder(std::string path, int lock_fd, StateOwner owner)
      : path_(std::move(path)), lock_fd_(lock_fd), owner_(std::move(owner)) {}
  void RemoveAll() const;

  const std::string path_;
  const int lock_fd_;
  const StateOwner owner_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_STATE_FOLDER_H_
