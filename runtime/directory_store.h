// A session store in a folder: for one replica, or for several that share a disk. A folder for each
// tenant and in it a file for each session, written atomically.
//
// Its calls take as long as the disk does, and one that hangs, as a network's may whose server is
// gone, hangs them: a server has it behind a BoundedStore.
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
  std::function<absl::Time()> now;                 // The disk's (disk_clock.h): dates of its files.
  absl::Duration lock_timeout = absl::Seconds(2);  // Waiting for the others that write.
  absl::Duration sweep_interval = absl::Minutes(1);  // From one sweep's begin to the next one's.
};

// Whether others than the user that has it may list a folder, or write into it.
bool OthersMayReadOrWrite(const std::string& folder);

class DirectoryStore : public SessionStore {
 public:
  ~DirectoryStore() override;
  // The folder cannot be made or written: the reason. What it makes is its user's alone: files have
  // the names of handles, and whoever knows one may use its session.
  static absl::StatusOr<std::unique_ptr<DirectoryStore>> Open(DirectoryStoreOptions options);

  absl::Status Put(const StoreKey& key, const SessionPast& past, const Source& next,
                   absl::Duration ttl) override;
  absl::StatusOr<SessionVersion> Get(const StoreKey& key, const Sink& take) override;
  absl::StatusOr<SessionVersion> Version(const StoreKey& key) override;
  absl::Status Delete(const StoreKey& key, absl::Duration ttl) override;

  // Goes on with a sweep, which removes sessions whose time is over, ones that cannot be read a day
  // after they were written, and what crashes left: past so many entries of the folder, or to its
  // end. Without one under way it begins one, if that is due. Returns how many sessions it removed.
  // Each Put() does so for a few entries, more than it adds, so that every sweep comes to its end
  // and no call waits for the others' sessions.
  int Sweep(int entries);
  static constexpr int kEntriesAPut = 16;

 private:
  class Walk;
  explicit DirectoryStore(DirectoryStoreOptions options);
  std::string FolderOf(const StoreKey& key) const;
  std::string PathOf(const StoreKey& key) const;
  // Null: another call goes on with it, or none is due.
  std::unique_ptr<Walk> TakeWalk();
  void GiveBack(std::unique_ptr<Walk> walk);
  // One that is over is removed. False: not now, since others hold the lock.
  bool RemoveIfOver(const std::string& path, int* removed);

  const DirectoryStoreOptions options_;
  Mutex mutex_;
  absl::Time last_sweep_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  bool sweeping_ ABSL_GUARDED_BY(mutex_) = false;       // A call has the walk.
  std::unique_ptr<Walk> walk_ ABSL_GUARDED_BY(mutex_);  // Where a sweep goes on; null: none does.
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_DIRECTORY_STORE_H_
