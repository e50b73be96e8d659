// Sessions that outlive their replica: after a turn a session goes into a store, with its state,
// and before one it comes from there where another replica has had it since.
//
// A session is its text first: where the state is too large, found no room or was not kept, the
// text goes alone, and the next turn computes it anew, with the same tokens.
#ifndef PACKRAT_RUNTIME_SESSION_ARCHIVE_H_
#define PACKRAT_RUNTIME_SESSION_ARCHIVE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "runtime/engine.h"
#include "runtime/saved_state.h"
#include "runtime/session.h"
#include "runtime/session_store.h"

namespace packrat {

struct SessionArchiveOptions {
  absl::Duration ttl = absl::Hours(1);               // In the store, from the last Put() on.
  int64_t max_state_bytes = int64_t{64} << 20;       // Of a state that goes with its text.
  absl::Duration engine_timeout = absl::Seconds(5);  // A text goes alone if it takes longer.
};

// Thread-safe. All calls wait, for the store and for a step of the engine; never call them by the
// thread that runs Step().
class SessionArchive {
 public:
  // All outlive it. `model`: that of the engine.
  SessionArchive(Sessions* sessions, Engine* engine, StateOwner model, SessionStore* store,
                 const SessionArchiveOptions& options)
      : sessions_(sessions),
        engine_(engine),
        model_(std::move(model)),
        store_(store),
        options_(options) {}

  // Before a session is used. `space`: who goes on from its state; nullopt: the text comes alone,
  // as for those who only look at it. NOT_FOUND: neither this replica nor the store has it.
  // ABORTED: a turn is being generated in it. UNAVAILABLE: it is not here, and the store does not
  // answer; where it is here, it goes on as it stands. Errors of DecodeSavedState() and
  // Sessions::Adopt().
  absl::Status Fetch(const SessionOwner& owner, absl::string_view handle,
                     const std::optional<StateSpace>& space, absl::Time now);
  // After it was changed, with what `space` keeps of its state; nullopt: its text alone. ABORTED:
  // another replica has changed it as well; what that one made of it stays, and this replica
  // forgets its own, unless its turn is not over yet. Errors of SessionStore::Put().
  absl::Status Put(const SessionOwner& owner, absl::string_view handle,
                   const std::optional<StateSpace>& space, absl::Time now);
  absl::Status Delete(const SessionOwner& owner, absl::string_view handle);

 private:
  // The text with its state, or alone.
  SavedState WithState(const std::optional<StateSpace>& space, std::vector<int32_t> text);
  // Whether the store has the session as it is here.
  bool IsStored(const SessionOwner& owner, absl::string_view handle, absl::Time now);

  Sessions* const sessions_;
  Engine* const engine_;
  const StateOwner model_;
  SessionStore* const store_;
  const SessionArchiveOptions options_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SESSION_ARCHIVE_H_
