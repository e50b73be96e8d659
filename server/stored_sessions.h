// Sessions that go on at another replica, as calls use them: the archive behind threads that may
// wait, and a store that is down costs calls little.
#ifndef PACKRAT_SERVER_STORED_SESSIONS_H_
#define PACKRAT_SERVER_STORED_SESSIONS_H_

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/session_archive.h"
#include "server/log.h"
#include "server/work_pool.h"

namespace packrat {

// Passes calls on, a few at a time. While one of them hangs, and for a moment after one was
// UNAVAILABLE, all others are UNAVAILABLE at once, so that a store that is frozen holds up a few
// calls and not a queue of them. One that took a piece and was too slow for the rest may still do
// for less. Counts.
class GuardedStore : public SessionStore {
 public:
  // Whether who asks has gone.
  using Gone = std::function<bool()>;
  struct Stats {
    std::atomic<int64_t> fetched{0}, stored{0}, failures{0};
    std::atomic<int64_t> calls{0}, nanoseconds{0};  // That reached the store, failures included.
  };
  // `log` outlives it. `most_calls` at a time; others wait for these. `patience`: how long one may
  // take for a piece, or where it has none.
  GuardedStore(std::unique_ptr<SessionStore> store, Logger* log, int most_calls,
               absl::Duration patience = absl::Milliseconds(2500))
      : store_(std::move(store)), log_(log), most_calls_(most_calls), patience_(patience) {}

  absl::Status Put(const StoreKey& key, const SessionPast& past, const Source& next,
                   absl::Duration ttl) override;
  absl::StatusOr<SessionVersion> Get(const StoreKey& key, const Sink& take) override;
  absl::StatusOr<SessionVersion> Version(const StoreKey& key) override;
  absl::Status Delete(const StoreKey& key, absl::Duration ttl) override;
  const Stats& stats() const { return stats_; }

  // The store for one who reads and may go: from then on its calls take no place and are CANCELLED.
  class Reader;

 private:
  struct Call {
    // When it began to wait for the store; never, while that waits for the next piece.
    absl::Time since;
    int pieces = 0;
  };
  using Calls = std::list<Call>;

  // No message that comes of it shows the handle.
  absl::Status Guard(const StoreKey& key, const Gone& gone,
                     const std::function<absl::Status(Calls::iterator call)>& work);
  absl::StatusOr<SessionVersion> Get(const StoreKey& key, const Gone& gone, const Sink& take);
  absl::StatusOr<SessionVersion> Version(const StoreKey& key, const Gone& gone);
  // Waits, until there is room for one more or one hangs. CANCELLED: `gone`, which may be null.
  absl::StatusOr<Calls::iterator> Enter(const Gone& gone);
  void Leave(Calls::iterator call);
  void TurnToPieces(Calls::iterator call);
  void TurnToStore(Calls::iterator call);
  void CountFailure(absl::string_view why, absl::Duration retry_after)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::unique_ptr<SessionStore> store_;
  Logger* const log_;
  const int most_calls_;
  const absl::Duration patience_;
  Stats stats_;
  Mutex mutex_;
  std::condition_variable left_;
  Calls calls_ ABSL_GUARDED_BY(mutex_);
  absl::Time down_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

// Thread-safe. Fetch(), Look(), Put() and Delete() wait, as long as the store does with each piece:
// call them by work that Submit() was given.
class StoredSessions {
 public:
  // So many calls at a time; each may hold a piece of a state, and copies for the store. One thread
  // more, so that work goes on where all of them hang.
  static constexpr int kCalls = 4, kCopies = 4, kThreads = kCalls + 1;
  // All outlive it. `max_waiting`: pieces of work.
  StoredSessions(std::unique_ptr<SessionStore> store, Sessions* sessions, SessionTransfer* transfer,
                 int max_waiting, Logger* log);

  // RESOURCE_EXHAUSTED: too much waits, and `work` is not called.
  absl::Status Submit(size_t bytes, std::function<void()> work,
                      WorkPool::Ticket* ticket = nullptr) {
    return pool_.Submit(bytes, std::move(work), ticket);
  }
  // See WorkPool.
  void Withdraw(WorkPool::Ticket ticket) { pool_.Withdraw(ticket); }
  // Makes sure that the session is here as the store has it, if it is anywhere. `space`: whose
  // requests go on from its state; nullopt: its text is enough. UNAVAILABLE: it is not here, and
  // the store does not answer. CANCELLED: `gone`, which says whether the client has. Other errors
  // as of SessionArchive::Fetch().
  absl::Status Fetch(const SessionOwner& owner, absl::string_view handle,
                     const std::optional<StateSpace>& space, const GuardedStore::Gone& gone);
  // A session as it is here or in the store, without bringing it here. CANCELLED as of Fetch();
  // other errors as of SessionArchive::Look().
  absl::StatusOr<SessionInfo> Look(const SessionOwner& owner, absl::string_view handle,
                                   std::vector<int32_t>* text, const GuardedStore::Gone& gone);
  // After it has changed. ABORTED: another replica has changed it too, and that is what stays;
  // `newer`: see SessionArchive::Put(). Other errors: it is as it was in the store.
  absl::Status Put(const SessionOwner& owner, absl::string_view handle,
                   const std::optional<StateSpace>& space,
                   std::optional<StoredText>* newer = nullptr);
  // Here and in the store. Errors as of SessionArchive::Delete().
  absl::Status Delete(const SessionOwner& owner, absl::string_view handle);

  // Something that changed did not come to Put().
  void CountNotStored() { ++not_stored_; }
  const GuardedStore::Stats& stats() const { return store_.stats(); }
  int64_t not_stored() const { return not_stored_.load(); }
  int waiting() const { return pool_.waiting(); }

 private:
  Sessions* const sessions_;
  SessionTransfer* const transfer_;
  GuardedStore store_;
  SessionArchive archive_;  // For what is to be done in any case.
  std::atomic<int64_t> not_stored_{0};
  WorkPool pool_;  // The last: its work uses the others.
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_STORED_SESSIONS_H_
