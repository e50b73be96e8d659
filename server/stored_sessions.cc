#include "server/stored_sessions.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "runtime/steady_clock.h"

namespace packrat {
namespace {

constexpr absl::Duration kRetryAfter = absl::Seconds(1);

WorkPool::Options PoolOptions(int max_waiting) {
  WorkPool::Options options;
  options.threads = StoredSessions::kThreads;
  options.max_queue = max_waiting;
  options.what = "calls about sessions";
  options.limit = "max_streams";
  return options;
}

absl::Status HasGone() { return absl::CancelledError("the client has gone"); }

// The log has the reason, in which there may be paths and addresses.
absl::Status Told(const absl::Status& status) {
  if (!absl::IsUnavailable(status)) return status;
  return absl::UnavailableError(
      "the session is not at this replica, and the session store does not answer");
}

}  // namespace

void GuardedStore::CountFailure(absl::string_view why, absl::Duration retry_after) {
  ++stats_.failures;
  const absl::Time now = SteadyNow();
  if (now >= down_until_) {
    log_->Error("the session store fails", {{"error", std::string(why)}});
  }
  down_until_ = std::max(down_until_, now + retry_after);
}

absl::StatusOr<GuardedStore::Calls::iterator> GuardedStore::Enter(const Gone& gone) {
  MutexLock lock(&mutex_);
  for (;;) {
    if (gone != nullptr && gone()) {
      left_.notify_one();  // The place that it may have been woken for is the next one's.
      return HasGone();
    }
    const absl::Time now = SteadyNow();
    if (now < down_until_) {
      return absl::UnavailableError("the session store did not answer a moment ago");
    }
    absl::Duration waited;
    for (const Call& call : calls_) waited = std::max(waited, now - call.since);
    if (waited >= patience_) {
      const std::string why =
          absl::StrCat("it has not answered for ", absl::FormatDuration(waited));
      CountFailure(why, kRetryAfter);
      return absl::UnavailableError(why);
    }
    if (static_cast<int>(calls_.size()) < most_calls_) return calls_.insert(calls_.end(), {now});
    lock.WaitUntil(
        &left_, std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(patience_ - waited));
  }
}

void GuardedStore::Leave(Calls::iterator call) {
  {
    MutexLock lock(&mutex_);
    calls_.erase(call);
  }
  left_.notify_one();
}

void GuardedStore::TurnToPieces(Calls::iterator call) {
  MutexLock lock(&mutex_);
  call->since = absl::InfiniteFuture();
  ++call->pieces;
}

void GuardedStore::TurnToStore(Calls::iterator call) {
  MutexLock lock(&mutex_);
  call->since = SteadyNow();
}

absl::Status GuardedStore::Guard(const StoreKey& key, const Gone& gone,
                                 const std::function<absl::Status(Calls::iterator call)>& work) {
  const absl::StatusOr<Calls::iterator> call = Enter(gone);
  if (!call.ok()) return call.status();
  const absl::Cleanup leave = [&] { Leave(*call); };
  const absl::Time start = SteadyNow();
  const absl::Status told = work(*call);
  stats_.nanoseconds += absl::ToInt64Nanoseconds(SteadyNow() - start);
  ++stats_.calls;
  if (told.ok()) return told;
  // Messages about a file or a command of Redis may hold the handle, and whoever knows it may use
  // the session.
  const absl::Status status(told.code(),
                            absl::StrReplaceAll(told.message(), {{key.handle, "..."}}));
  if (!absl::IsUnavailable(status)) return status;
  MutexLock lock(&mutex_);
  const bool took_one = (*call)->pieces > 1;
  CountFailure(status.message(), took_one ? absl::ZeroDuration() : kRetryAfter);
  return status;
}

absl::Status GuardedStore::Put(const StoreKey& key, const SessionPast& past, const Source& next,
                               absl::Duration ttl) {
  const absl::Status status = Guard(key, nullptr, [&](Calls::iterator call) {
    const auto piece = [&] {
      TurnToPieces(call);
      absl::StatusOr<std::string> bytes = next();
      TurnToStore(call);
      return bytes;
    };
    return store_->Put(key, past, piece, ttl);
  });
  if (status.ok()) ++stats_.stored;
  return status;
}

absl::StatusOr<SessionVersion> GuardedStore::Get(const StoreKey& key, const Sink& take) {
  return Get(key, nullptr, take);
}

absl::StatusOr<SessionVersion> GuardedStore::Get(const StoreKey& key, const Gone& gone,
                                                 const Sink& take) {
  absl::StatusOr<SessionVersion> version;
  const absl::Status status = Guard(key, gone, [&](Calls::iterator call) {
    version = store_->Get(key, [&](absl::string_view piece) -> absl::StatusOr<bool> {
      if (gone != nullptr && gone()) return HasGone();
      TurnToPieces(call);
      absl::StatusOr<bool> more = take(piece);
      TurnToStore(call);
      return more;
    });
    return version.status();
  });
  if (!status.ok()) return status;
  ++stats_.fetched;
  return version;
}

absl::StatusOr<SessionVersion> GuardedStore::Version(const StoreKey& key) {
  return Version(key, nullptr);
}

absl::StatusOr<SessionVersion> GuardedStore::Version(const StoreKey& key, const Gone& gone) {
  absl::StatusOr<SessionVersion> version;
  const absl::Status status = Guard(key, gone, [&](Calls::iterator) {
    version = store_->Version(key);
    return version.status();
  });
  if (!status.ok()) return status;
  return version;
}

absl::Status GuardedStore::Delete(const StoreKey& key, absl::Duration ttl) {
  return Guard(key, nullptr, [&](Calls::iterator) { return store_->Delete(key, ttl); });
}

class GuardedStore::Reader final : public SessionStore {
 public:
  Reader(GuardedStore* store, const Gone& gone) : store_(store), gone_(gone) {}
  absl::StatusOr<SessionVersion> Get(const StoreKey& key, const Sink& take) override {
    return store_->Get(key, gone_, take);
  }
  absl::StatusOr<SessionVersion> Version(const StoreKey& key) override {
    return store_->Version(key, gone_);
  }
  // Of these nobody goes.
  absl::Status Put(const StoreKey& key, const SessionPast& past, const Source& next,
                   absl::Duration ttl) override {
    return store_->Put(key, past, next, ttl);
  }
  absl::Status Delete(const StoreKey& key, absl::Duration ttl) override {
    return store_->Delete(key, ttl);
  }

 private:
  GuardedStore* const store_;
  const Gone& gone_;
};

StoredSessions::StoredSessions(std::unique_ptr<SessionStore> store, Sessions* sessions,
                               SessionTransfer* transfer, int max_waiting, Logger* log)
    : sessions_(sessions),
      transfer_(transfer),
      store_(std::move(store), log, kCalls),
      archive_(sessions, transfer, &store_),
      pool_(PoolOptions(max_waiting)) {}

absl::Status StoredSessions::Fetch(const SessionOwner& owner, absl::string_view handle,
                                   const std::optional<StateSpace>& space,
                                   const GuardedStore::Gone& gone) {
  GuardedStore::Reader store(&store_, gone);
  SessionArchive archive(sessions_, transfer_, &store);
  const absl::Status status = archive.Fetch(owner, handle, space, SteadyNow());
  // Also where the session is here, and would have gone on as if the store was down.
  return gone() ? HasGone() : Told(status);
}

absl::StatusOr<SessionInfo> StoredSessions::Look(const SessionOwner& owner,
                                                 absl::string_view handle,
                                                 std::vector<int32_t>* text,
                                                 const GuardedStore::Gone& gone) {
  GuardedStore::Reader store(&store_, gone);
  SessionArchive archive(sessions_, transfer_, &store);
  auto info = archive.Look(owner, handle, SteadyNow(), text);
  if (!info.ok()) return Told(info.status());
  return info;
}

absl::Status StoredSessions::Put(const SessionOwner& owner, absl::string_view handle,
                                 const std::optional<StateSpace>& space,
                                 std::optional<StoredText>* newer) {
  const absl::Status status = archive_.Put(owner, handle, space, SteadyNow(), newer);
  if (!status.ok()) ++not_stored_;
  return status;
}

absl::Status StoredSessions::Delete(const SessionOwner& owner, absl::string_view handle) {
  const absl::Status status = archive_.Delete(owner, handle, SteadyNow());
  if (!absl::IsUnavailable(status)) return status;
  return absl::UnavailableError("the session store, which may have the session, does not answer");
}

}  // namespace packrat
