// A session store whose calls end in time, whatever the store under it does: for one in a folder,
// where a disk of a network whose server is gone answers no more, and the system waits for it.
#ifndef PACKRAT_RUNTIME_BOUNDED_STORE_H_
#define PACKRAT_RUNTIME_BOUNDED_STORE_H_

#include <functional>
#include <memory>

#include "runtime/session_store.h"

namespace packrat {

// Thread-safe. Every call is made by a thread of its own; who waits for it longer than `timeout`,
// for a piece or where it has none, is told UNAVAILABLE. Nobody ends what hangs in the system: such
// a call goes on by itself, is given no more pieces, and may be done later. While `most_calls` are
// under way, these included, others are UNAVAILABLE at once.
class BoundedStore : public SessionStore {
 public:
  // `timeout`: above what a disk takes to write a state that it was given piece by piece.
  explicit BoundedStore(std::unique_ptr<SessionStore> store,
                        absl::Duration timeout = absl::Seconds(10), int most_calls = 8);

  absl::Status Put(const StoreKey& key, const SessionPast& past, const Source& next,
                   absl::Duration ttl) override;
  absl::StatusOr<SessionVersion> Get(const StoreKey& key, const Sink& take) override;
  absl::StatusOr<SessionVersion> Version(const StoreKey& key) override;
  absl::Status Delete(const StoreKey& key, absl::Duration ttl) override;

 private:
  struct Shared;
  class Call;
  // `work` may outlive whoever waits for it.
  absl::Status Run(std::function<absl::Status(SessionStore* store, Call* call)> work);

  const std::shared_ptr<Shared> shared_;  // With the calls that go on.
  const absl::Duration timeout_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_BOUNDED_STORE_H_
