// Sessions that outlive their replica: after a turn a session goes into a store, with its state,
// and before one it comes from there where another replica has had it since.
#ifndef PACKRAT_RUNTIME_SESSION_ARCHIVE_H_
#define PACKRAT_RUNTIME_SESSION_ARCHIVE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "runtime/session.h"
#include "runtime/session_store.h"
#include "runtime/session_transfer.h"
#include "runtime/session_version.h"

namespace packrat {

// What a store has of a session, but for its state.
struct StoredText {
  SessionVersion version;
  SessionContent content;
};

// Thread-safe. All calls wait, for the store and for a step of the engine; never call them by the
// thread that runs Step().
class SessionArchive {
 public:
  // All outlive it. `state_timeout`: of a state as a whole, however many pieces the store takes or
  // gives, each in its own time; what takes longer goes or comes as a text alone.
  SessionArchive(Sessions* sessions, SessionTransfer* transfer, SessionStore* store,
                 absl::Duration state_timeout = absl::Seconds(30))
      : sessions_(sessions), transfer_(transfer), store_(store), state_timeout_(state_timeout) {}

  // Before a session is used. Where the store has what did not come from the text that is here,
  // that takes its place, and one that was deleted at another replica goes. `space`: who goes on
  // from its state; nullopt: the text comes alone, as for those who only look at it. One in which a
  // turn is being generated here stays as it is; who then begins another one, just as that one
  // ends, goes on from it, as the store does. NOT_FOUND: neither this replica nor the store has it.
  // UNAVAILABLE: it is not here, and the store does not answer; where it is here, it goes on as it
  // stands. RESOURCE_EXHAUSTED: there is no room for it here. ABORTED, told once: changes that had
  // not come to the store made place for another replica's, and the session is as the store has it;
  // or the store has lost it before its time, and it is as it stands here, which may be old.
  // Errors of DecodeSavedState() and Sessions::Adopt().
  absl::Status Fetch(const SessionOwner& owner, absl::string_view handle,
                     const std::optional<StateSpace>& space, absl::Time now);
  // A session as Fetch() would leave it, for those who only look at it: it
  // needs no room here, and stays where it is. `text`, where given, gets its tokens. Errors as of
  // Fetch(), but for RESOURCE_EXHAUSTED and ABORTED.
  absl::StatusOr<SessionInfo> Look(const SessionOwner& owner, absl::string_view handle,
                                   absl::Time now, std::vector<int32_t>* text = nullptr);
  // After it was changed, also by a turn that was kept and is not over, with what `space` keeps of
  // its state; nullopt, or where the store has no room or is too slow for that: its text alone. It
  // stays in the store for its time to live, from now on. ABORTED: another replica has changed or
  // deleted it as well; what that one made of it stays, and takes the place of this replica's,
  // which is forgotten where the store does not tell. One whose turn is not over yet is left to
  // that: `newer`, if not null, gets what takes its place, if it is told. Errors of
  // SessionStore::Put().
  absl::Status Put(const SessionOwner& owner, absl::string_view handle,
                   const std::optional<StateSpace>& space, absl::Time now,
                   std::optional<StoredText>* newer = nullptr);
  // Here and in the store, without a look at what it holds: there need be no room for it here, and
  // it may be damaged. Other replicas that have it learn of it from the store. NOT_FOUND: neither
  // has it. ABORTED: a turn is being generated in it here. UNAVAILABLE: the store does not answer;
  // it is no longer here.
  absl::Status Delete(const SessionOwner& owner, absl::string_view handle, absl::Time now);

 private:
  // Whether the store has what the session here did not come from. One that was deleted there is
  // no longer here. Errors: it is in neither, or is not here and cannot be had from there; and, but
  // for who only looks at it, the store has lost it.
  absl::StatusOr<bool> IsOtherThere(const SessionOwner& owner, absl::string_view handle,
                                    const absl::StatusOr<SessionInfo>& here, bool looks,
                                    absl::Time now);
  absl::Status PutOnce(const SessionOwner& owner, absl::string_view handle,
                       const std::optional<StateSpace>& space, absl::Time now,
                       std::optional<StoredText>* newer, bool* text_alone);
  // `cut`: its state has not gone to its end, and nothing of it is stored.
  absl::Status Send(const StoreKey& key, PackedSession* packed, bool* cut);
  // Its version; `input` takes all of it, or its text where its state is not wanted, of no use, or
  // too slow.
  absl::StatusOr<SessionVersion> Get(const StoreKey& key, bool with_state,
                                     std::optional<SessionInput>* input);
  absl::StatusOr<StoredText> TextOf(const StoreKey& key);
  // Whether the session here is that one, or came from it.
  bool IsHere(const SessionVersion& version, const SessionOwner& owner, absl::string_view handle,
              absl::Time now);

  Sessions* const sessions_;
  SessionTransfer* const transfer_;
  SessionStore* const store_;
  const absl::Duration state_timeout_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SESSION_ARCHIVE_H_
