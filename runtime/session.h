// Sessions: texts that are kept between requests, each under a handle that nobody guesses. A
// session is a text, a list of token ids, and nothing else: a request in it has the whole text as
// its prompt. The state that makes this cheap is the prefix cache's affair, and no answer depends
// on it. Knows no network, and no clock: time is passed in. Thread-safe.
#ifndef PACKRAT_RUNTIME_SESSION_H_
#define PACKRAT_RUNTIME_SESSION_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "models/batch.h"
#include "runtime/mutex.h"
#include "runtime/session_version.h"
#include "runtime/text_dials.h"
#include "runtime/text_end.h"

namespace packrat {

struct SessionOptions {
  int max_sessions = 4096;
  int64_t max_tokens = int64_t{4} << 20;  // Of all texts together, promised ones included.
  absl::Duration ttl = absl::Hours(1);    // After its last use; the longest that one may ask for.

  // Of memory at most: each token may be a turn, with an end of its own.
  static constexpr int64_t kTokenBytes = 8;
  int64_t Bytes() const { return kTokenBytes * max_tokens + int64_t{500} * max_sessions; }
};

// Who asks. To everybody else a session is as unknown as one that never was.
struct SessionOwner {
  std::string tenant;  // Empty: all that have none are one.
  double share = 1;    // Of max_sessions and max_tokens. Range (0, 1].
};

struct SessionInfo {
  std::string handle;  // 128 random bits in base64url: 22 characters.
  int32_t tokens = 0, num_turns = 0;
  std::vector<int32_t> turns;  // Where each ends, in tokens; the last where the text does.
  SessionPast past;            // Of the text, and its version.
  uint64_t origin = 0;         // Of its states: see StateSpace in request.h...
  TextDials dials;             // ...and this. Means nothing while there are no tokens,
  SolverOptions solver;        // nor do these, of its last turn.
  SeenTextEnd end;             // At which it stands: nobody's where it was rewound, or is empty.
  bool busy = false;           // A turn is being generated.
  absl::Duration age, idle;    // Since it was made, and since it was used last.
  absl::Duration ttl;          // It expires when it has been idle for so long.
  bool in_store = false;       // A store has it, unless it lost it.
};

// What a session brings that comes from elsewhere.
struct SessionContent {
  std::vector<int32_t> text, turns;
  absl::Duration ttl;  // Above SessionOptions::ttl, or not above 0: that.
  uint64_t origin = 0;
  TextDials dials;
  SolverOptions solver;
};

// Errors: NOT_FOUND for a handle that is none, unknown, expired, or another owner's, in the same
// words; ABORTED while a turn is being generated; RESOURCE_EXHAUSTED at a limit; INVALID_ARGUMENT
// names field and range. No message shows a handle: whoever has it may use it.
//
// A session is used by turns, forks and rewinds; looking at it does not keep it alive.
class Sessions {
 public:
  // `random`: 64 bits that nobody can foretell.
  Sessions(const SessionOptions& options, std::function<uint64_t()> random);

  // `ttl`: in (0, options.ttl]; that where none is given.
  absl::StatusOr<SessionInfo> Create(const SessionOwner& owner, std::optional<absl::Duration> ttl,
                                     absl::Time now);
  // INVALID_ARGUMENT: it is not in that range.
  absl::Status CheckTtl(absl::Duration ttl) const;
  // `text`, where given, gets its tokens. One in which a turn is being generated is as it was
  // before that, until the turn is over: it may yet come to nothing.
  absl::StatusOr<SessionInfo> Get(const SessionOwner& owner, absl::string_view handle,
                                  absl::Time now, std::vector<int32_t>* text = nullptr);
  // The same with a turn that was kept and is not over: what a store is to have.
  absl::StatusOr<SessionInfo> GetWithTurn(const SessionOwner& owner, absl::string_view handle,
                                          absl::Time now, std::vector<int32_t>* text = nullptr);
  // The `limit` that were used last, the latest first, without `turns`; `total`: how many there
  // are.
  std::vector<SessionInfo> List(const SessionOwner& owner, int limit, absl::Time now, int* total);
  // A new session with the same text, turns and ttl. Of a busy one: as it was before its turn.
  absl::StatusOr<SessionInfo> Fork(const SessionOwner& owner, absl::string_view handle,
                                   absl::Time now);
  // A session that another replica had, under the handle that it has there; one that is here makes
  // place for it, unless it came from that. ABORTED: that one is busy.
  absl::StatusOr<SessionInfo> Adopt(const SessionOwner& owner, absl::string_view handle,
                                    const SessionVersion& version, SessionContent content,
                                    absl::Time now) {
    return Adopt(owner, handle, version, std::move(content), now, /*may_add=*/true);
  }
  // The same in the place of one that is here alone. NOT_FOUND: none is.
  absl::StatusOr<SessionInfo> Replace(const SessionOwner& owner, absl::string_view handle,
                                      const SessionVersion& version, SessionContent content,
                                      absl::Time now) {
    return Adopt(owner, handle, version, std::move(content), now, /*may_add=*/false);
  }
  // What Adopt() would make of such a session, which stays where it is.
  SessionInfo Preview(absl::string_view handle, const SessionVersion& version,
                      SessionContent content) const;
  // A store has this version of it, until then at least.
  void Stored(const SessionOwner& owner, absl::string_view handle, const SessionVersion& version,
              absl::Time until, absl::Time now);
  // It has lost it.
  void LostByStore(const SessionOwner& owner, absl::string_view handle, absl::Time now);
  // As Adopt(), under a handle of its own.
  absl::StatusOr<SessionInfo> Restore(const SessionOwner& owner, SessionContent content,
                                      absl::Time now);
  // NOT_FOUND, in the words for it.
  static absl::Status Unknown();
  // The longest that a session lives after its last use.
  absl::Duration ttl() const { return options_.ttl; }
  // Whether Create() may give such a handle.
  static bool IsHandle(absl::string_view handle) { return !(KeyOf(handle) == Key()); }
  // Cuts the text to its first `tokens`, in [0, tokens], or to its first `turns`.
  absl::StatusOr<SessionInfo> Rewind(const SessionOwner& owner, absl::string_view handle,
                                     int64_t tokens, absl::Time now);
  absl::StatusOr<SessionInfo> RewindTurns(const SessionOwner& owner, absl::string_view handle,
                                          int64_t turns, absl::Time now);
  absl::Status Delete(const SessionOwner& owner, absl::string_view handle, absl::Time now);

  // A turn that is being generated: its session is busy for as long as this lives. What is not kept
  // leaves the session as it was.
  class Turn;
  absl::StatusOr<Turn> Begin(const SessionOwner& owner, absl::string_view handle, absl::Time now);

  // Calls `gone`, under a lock of this object, when the last session of an origin has gone; null:
  // nobody.
  void WatchOrigins(std::function<void(uint64_t origin)> gone);

  // Drops what has expired. All that takes a time does so first; this is for when nobody calls.
  void Expire(absl::Time now);

  struct Stats {
    int sessions = 0, busy = 0;
    int64_t tokens = 0;  // Of all texts, promised ones included.
    int64_t created = 0, expired = 0;
  };
  Stats stats() const;

 private:
  // Two numbers, so that comparing takes the same time however much of a guess is right.
  struct Key {
    uint64_t high = 0, low = 0;
    bool operator==(const Key& o) const { return ((high ^ o.high) | (low ^ o.low)) == 0; }
  };
  struct KeyHash {
    size_t operator()(const Key& key) const { return static_cast<size_t>(key.low); }
  };
  using ByTime = std::multimap<absl::Time, Key>;
  struct Account {
    int sessions = 0;
    int64_t tokens = 0;
    ByTime by_use;
  };
  // What joins a session at the end of a turn, unless that is revoked.
  struct Kept {
    std::vector<int32_t> added;
    TextDials dials;
    SolverOptions solver;
    HeldTextEnd end;  // Null: that which it has.
    SessionPast past;
  };
  struct Session {
    std::string tenant;
    std::vector<int32_t> text;
    std::vector<int32_t> turns;
    SessionPast past;
    uint64_t origin = 0;
    TextDials dials;
    SolverOptions solver;
    HeldTextEnd end;
    absl::Duration ttl;
    absl::Time created, used;
    absl::Time in_store = absl::InfinitePast();  // A store has it until then.
    bool busy = false;
    std::unique_ptr<Kept> kept;  // There is memory in `text` and `turns` for it.
    // A turn has ended at a time that is not known: its time to live begins when somebody looks.
    bool renew = false;
    ByTime::iterator use;     // In its tenant's account.
    ByTime::iterator expiry;  // While it is busy: at the end of time.
  };
  using Map = std::unordered_map<Key, Session, KeyHash>;

  static Key KeyOf(absl::string_view handle);  // Zero, which no session has: it is no handle.
  static std::string HandleOf(const Key& key);
  static SessionInfo Describe(const Map::value_type& entry, absl::Time now, bool turns = true);
  Session Fresh(SessionContent content) const;
  void DropExpired(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Map::iterator> Find(const SessionOwner& owner, absl::string_view handle,
                                     absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same, and it is not busy.
  absl::StatusOr<Map::iterator> FindIdle(const SessionOwner& owner, absl::string_view handle,
                                         absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Key NewKey() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<SessionInfo> Add(const SessionOwner& owner, const Key& key, Session session,
                                  absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // One that was nowhere before.
  absl::StatusOr<SessionInfo> AddNew(const SessionOwner& owner, Session session, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(Map::iterator at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void JoinOrigin(uint64_t origin) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LeaveOrigin(uint64_t origin) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A session that is here gets all that `there` has, which nobody else knows yet.
  absl::Status Become(const SessionOwner& owner, Session* here, Session there, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<SessionInfo> Adopt(const SessionOwner& owner, absl::string_view handle,
                                    const SessionVersion& version, SessionContent content,
                                    absl::Time now, bool may_add);
  SessionInfo Cut(Map::iterator at, int64_t tokens, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void JoinKept(Session* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetBusy(Session* session, bool busy) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Use(Session* session, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetExpiry(Session* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckRoom(const SessionOwner& owner, int sessions, int64_t tokens)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Count(const std::string& tenant, int sessions, int64_t tokens)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const SessionOptions options_;
  const std::function<uint64_t()> random_;
  mutable Mutex mutex_;
  Map sessions_ ABSL_GUARDED_BY(mutex_);
  ByTime by_expiry_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<std::string, Account> accounts_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<uint64_t, int> origins_ ABSL_GUARDED_BY(mutex_);  // Sessions; not of 0.
  std::function<void(uint64_t)> origin_gone_ ABSL_GUARDED_BY(mutex_);
  Stats stats_ ABSL_GUARDED_BY(mutex_);
};

// Not thread-safe; must not outlive its Sessions.
class Sessions::Turn {
 public:
  Turn(Turn&& other) noexcept;
  Turn& operator=(Turn&&) = delete;
  ~Turn();

  // What the turn goes on from.
  const std::vector<int32_t>& text() const { return text_; }
  uint64_t origin() const { return session_->origin; }
  const TextDials& dials() const { return session_->dials; }
  const SolverOptions& solver() const { return session_->solver; }
  // After Promise().
  TurnEnds ends() const { return {session_->end, end_}; }
  // The turn brings `prompt` and generates `max_tokens` at most, with these dials and options.
  // Once. RESOURCE_EXHAUSTED names the limit where there is no room for so much.
  absl::Status Promise(std::vector<int32_t> prompt, int max_tokens, TextDials dials = {},
                       const SolverOptions& solver = {});
  // Tokens that were generated, after Promise().
  void Append(absl::Span<const int32_t> tokens);
  int generated() const { return generated_; }
  // What was promised and appended joins the text when the turn is over, with this object. Nothing
  // comes after it but Drop() or Replace(), which revoke it. If it throws std::bad_alloc the
  // session stays as it was.
  void Keep(absl::Time now);
  // The session goes, with all that it holds, before anybody else can use it. The last call.
  void Drop();
  // Before anybody else can use it, the session becomes what another replica has made of it; where
  // there is no room for that it goes. The last call.
  void Replace(const SessionVersion& version, SessionContent content, absl::Time now);

 private:
  friend class Sessions;
  Turn(Sessions* sessions, Session* session, double share, std::vector<int32_t> text);

  Sessions* const sessions_;
  Session* session_;  // Busy, so that nobody removes it. Null: moved from, or dropped.
  const double share_;
  std::vector<int32_t> text_;
  std::vector<int32_t> added_;
  TextDials dials_;
  SolverOptions solver_;
  HeldTextEnd end_;
  int64_t promised_ = 0;
  int generated_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SESSION_H_
