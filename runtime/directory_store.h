// A session store in a folder: for one replica, or for several that share a disk. A folder for each
// tenant and in it a file for each session, written atomically.
#ifndef PACKRAT_RUNTIME_DIRECTORY_STORE_H_
#define PACKRAT_RUNTIME_DIRECTORY_STORE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "runtime/mutex.h"
#include "runtime/session_store.h"

namespace packrat {

struct DirectoryStoreOptions {
  std::string folder;                              // Made if it is not there.
  std::function<absl::Time()> now;                 // Dates, the same for all that share the folder.
  absl::Duration lock_timeout = absl::Seconds(2);  // Waiting for the others that write.
  absl::Duration sweep_interval = absl::Minutes(1);
};

class DirectoryStore : public SessionStore {
 public:
  // The folder cannot be made or written: the reason.
  static absl::StatusOr<std::unique_ptr<DirectoryStore>> Open(DirectoryStoreOptions options);

  absl::Status Put(const StoreKey& key, int64_t version, const Source& next,
                   absl::Duration ttl) override;
  absl::StatusOr<int64_t> Get(const StoreKey& key, const Sink& take) override;
  absl::StatusOr<int64_t> Version(const StoreKey& key) override;
  absl::Status Delete(const StoreKey& key) override;

  // Removes sessions whose time is over and what crashes left; Put() does it now and then. Returns
  // how many sessions it removed.
  int RemoveExpired();

 private:
  explicit DirectoryStore(DirectoryStoreOptions options) : options_(std::move(options)) {}
  std::string FolderOf(const StoreKey& key) const;
  std::string PathOf(const StoreKey& key) const;
  bool SweepIsDue();

  const DirectoryStoreOptions options_;
  Mutex mutex_;
  absl::Time last_sweep_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_DIRECTORY_STORE_H_
