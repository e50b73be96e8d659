// Where sessions outlive the replica that holds them, so that another one can go on: bytes under a
// tenant's handle. Calls wait, and end when `next` or `take` does so; any thread that may wait can
// make them. With each piece the stores of a server wait for a bounded time.
//
// Every entry has the version of its text. What takes its place came from it: a replica that was
// cut off and comes back cannot put its session over another one's, and can ask what there is.
#ifndef PACKRAT_RUNTIME_SESSION_STORE_H_
#define PACKRAT_RUNTIME_SESSION_STORE_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "runtime/session_version.h"

namespace packrat {

struct StoreKey {
  std::string tenant;  // Any bytes.
  std::string handle;  // Letters, digits, '-' and '_'; not empty.
};

// All calls may say UNAVAILABLE: the store does not answer, or not in time; the same call may do
// better later. None ends in another way that depends on the store's health.
class SessionStore {
 public:
  virtual ~SessionStore() = default;

  // Bytes by pieces, of which nobody holds many at once. The next one, empty at the end; an error
  // ends the call, which then says it and leaves nothing behind.
  using Source = std::function<absl::StatusOr<std::string>()>;
  // Takes the next one; false: it has enough.
  using Sink = std::function<absl::StatusOr<bool>(absl::string_view piece)>;

  // Keeps the bytes of the text of `past` for `ttl` (above 0) from now on, in place of one that it
  // came from, all at once when the last piece is there. OK also where this version is there
  // already. ABORTED: there is one that it did not come from, which stays, or the session was
  // deleted. RESOURCE_EXHAUSTED: the store has no room for it.
  virtual absl::Status Put(const StoreKey& key, const SessionPast& past, const Source& next,
                           absl::Duration ttl) = 0;
  // The version of what `take` was given. NOT_FOUND: there is none, its time is over, or it was
  // deleted. DATA_LOSS: what is there is damaged, which may show after its last piece alone.
  // FAILED_PRECONDITION: another version of the server stored it. ABORTED: it was changed
  // meanwhile, and can be had anew.
  virtual absl::StatusOr<SessionVersion> Get(const StoreKey& key, const Sink& take) = 0;
  // The version alone; errors as of Get(). kDeletedSession: Delete() was called.
  virtual absl::StatusOr<SessionVersion> Version(const StoreKey& key) = 0;
  // Nothing can be put there for `ttl` from now on, as far as there is room to remember that. OK
  // also where there is nothing.
  virtual absl::Status Delete(const StoreKey& key, absl::Duration ttl) = 0;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SESSION_STORE_H_
