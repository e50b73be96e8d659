#include "runtime/session.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "models/bounds.h"

namespace packrat {
namespace {

int64_t ShareOf(double share, int64_t all) {
  return std::max<int64_t>(1, std::llround(share * static_cast<double>(all)));
}

}  // namespace

Sessions::Sessions(const SessionOptions& options, std::function<uint64_t()> random)
    : options_(options), random_(std::move(random)) {}

absl::Status Sessions::Unknown() {
  return absl::NotFoundError(
      "session is not known to this server: it has expired, was deleted, or never was here");
}

Sessions::Key Sessions::KeyOf(absl::string_view handle) {
  std::string bytes;
  Key key;
  if (!absl::WebSafeBase64Unescape(handle, &bytes) || bytes.size() != sizeof(key)) return Key();
  std::memcpy(&key, bytes.data(), sizeof(key));
  // Only as it was written: the decoder takes padding, spaces and idle bits too.
  return HandleOf(key) == handle ? key : Key();
}

std::string Sessions::HandleOf(const Key& key) {
  char bytes[sizeof(key)];
  std::memcpy(bytes, &key, sizeof(key));
  return absl::WebSafeBase64Escape(absl::string_view(bytes, sizeof(bytes)));
}

SessionInfo Sessions::Describe(const Map::value_type& entry, absl::Time now, bool turns) {
  const Session& session = entry.second;
  SessionInfo info;
  info.handle = HandleOf(entry.first);
  info.tokens = static_cast<int32_t>(session.text.size());
  info.num_turns = static_cast<int32_t>(session.turns.size());
  if (turns) info.turns = session.turns;
  info.past = session.past;
  info.origin = session.origin;
  info.dials = session.dials;
  info.solver = session.solver;
  info.end = session.end;
  info.busy = session.busy;
  info.ttl = session.ttl;
  info.in_store = session.in_store > now;
  // Callers read the clock before they wait for the lock.
  info.age = std::max(absl::ZeroDuration(), now - session.created);
  info.idle = std::max(absl::ZeroDuration(), now - session.used);
  return info;
}

absl::Status Sessions::CheckRoom(const SessionOwner& owner, int sessions, int64_t tokens) {
  const Account& account = accounts_[owner.tenant];
  const std::string who = owner.tenant.empty() ? "there are" : absl::StrCat(owner.tenant, " has");
  const int64_t most_sessions = ShareOf(owner.share, options_.max_sessions);
  const int64_t most_tokens = ShareOf(owner.share, options_.max_tokens);
  const char* const help = "; delete some, or wait until they expire";
  if (account.sessions + sessions > most_sessions) {
    return absl::ResourceExhaustedError(
        absl::StrCat(who, " ", account.sessions, " sessions; at most ", most_sessions, help));
  }
  if (stats_.sessions + sessions > options_.max_sessions) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", options_.max_sessions, " sessions are in use"));
  }
  const std::string more = absl::StrCat(" tokens in sessions, and this takes ", tokens, " more");
  if (account.tokens + tokens > most_tokens) {
    return absl::ResourceExhaustedError(
        absl::StrCat(who, " ", account.tokens, more, "; at most ", most_tokens, help));
  }
  if (stats_.tokens + tokens > options_.max_tokens) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all tokens in sessions are in use but for fewer than the ", tokens,
                     " that this takes; at most ", options_.max_tokens));
  }
  return absl::OkStatus();
}

void Sessions::Count(const std::string& tenant, int sessions, int64_t tokens) {
  const auto account = accounts_.find(tenant);
  PACKRAT_CHECK(account != accounts_.end()) << "a tenant without an account";
  Account& counted = account->second;
  counted.sessions += sessions;
  counted.tokens += tokens;
  stats_.sessions += sessions;
  stats_.tokens += tokens;
  PACKRAT_CHECK(counted.sessions >= 0 && counted.tokens >= 0) << counted.tokens;
  if (counted.sessions == 0) accounts_.erase(account);
}

Sessions::Key Sessions::NewKey() {
  Key key;
  // One that begins with a dash would be taken for a flag.
  do {
    key = {random_(), random_()};
  } while (key == Key() || HandleOf(key)[0] == '-' || sessions_.count(key) > 0);
  return key;
}

absl::StatusOr<SessionInfo> Sessions::Add(const SessionOwner& owner, const Key& key,
                                          Session session, absl::Time now) {
  const auto tokens = static_cast<int64_t>(session.text.size());
  const absl::Status room = CheckRoom(owner, 1, tokens);
  if (!room.ok()) return room;
  session.tenant = owner.tenant;
  session.created = session.used = now;
  // All memory is taken before anything is changed.
  ByTime expiry, use;
  expiry.emplace(now + session.ttl, key);
  use.emplace(now, key);
  if (session.origin != 0) origins_.try_emplace(session.origin, 0);
  const auto at = sessions_.emplace(key, std::move(session)).first;
  at->second.expiry = by_expiry_.insert(expiry.extract(expiry.begin()));
  at->second.use = accounts_[owner.tenant].by_use.insert(use.extract(use.begin()));
  Count(owner.tenant, 1, tokens);
  JoinOrigin(at->second.origin);
  ++stats_.created;
  return Describe(*at, now);
}

absl::StatusOr<SessionInfo> Sessions::AddNew(const SessionOwner& owner, Session session,
                                             absl::Time now) {
  const Key key = NewKey();
  session.past = SessionPast({0, random_()});
  return Add(owner, key, std::move(session), now);
}

void Sessions::Remove(Map::iterator at) {
  by_expiry_.erase(at->second.expiry);
  accounts_[at->second.tenant].by_use.erase(at->second.use);
  Count(at->second.tenant, -1, -static_cast<int64_t>(at->second.text.size()));
  // Before its origin is forgotten: a state that comes later is then known to be nobody's.
  at->second.end.reset();
  LeaveOrigin(at->second.origin);
  sessions_.erase(at);
}

void Sessions::WatchOrigins(std::function<void(uint64_t origin)> gone) {
  MutexLock lock(&mutex_);
  origin_gone_ = std::move(gone);
}

void Sessions::JoinOrigin(uint64_t origin) {
  if (origin != 0) ++origins_[origin];
}

void Sessions::LeaveOrigin(uint64_t origin) {
  if (origin == 0 || --origins_[origin] > 0) return;
  origins_.erase(origin);
  if (origin_gone_ != nullptr) origin_gone_(origin);
}

void Sessions::DropExpired(absl::Time now) {
  while (!by_expiry_.empty() && by_expiry_.begin()->first <= now) {
    const auto at = sessions_.find(by_expiry_.begin()->second);
    if (std::exchange(at->second.renew, false)) {
      Use(&at->second, now);
      continue;
    }
    Remove(at);
    ++stats_.expired;
  }
}

void Sessions::SetBusy(Session* session, bool busy) {
  session->busy = busy;
  stats_.busy += busy ? 1 : -1;
  SetExpiry(session);
}

void Sessions::SetExpiry(Session* session) {
  // Allocates nothing.
  auto node = by_expiry_.extract(session->expiry);
  node.key() = session->busy ? absl::InfiniteFuture() : session->used + session->ttl;
  session->expiry = by_expiry_.insert(std::move(node));
}

void Sessions::Use(Session* session, absl::Time now) {
  session->used = std::max(session->used, now);
  ByTime& by_use = accounts_[session->tenant].by_use;
  auto node = by_use.extract(session->use);
  node.key() = session->used;
  session->use = by_use.insert(std::move(node));
  SetExpiry(session);
}

absl::StatusOr<Sessions::Map::iterator> Sessions::Find(const SessionOwner& owner,
                                                       absl::string_view handle, absl::Time now) {
  DropExpired(now);
  const auto at = sessions_.find(KeyOf(handle));
  if (at == sessions_.end() || at->second.tenant != owner.tenant) return Unknown();
  return at;
}

absl::StatusOr<Sessions::Map::iterator> Sessions::FindIdle(const SessionOwner& owner,
                                                           absl::string_view handle,
                                                           absl::Time now) {
  auto at = Find(owner, handle, now);
  if (!at.ok() || !(*at)->second.busy) return at;
  return absl::AbortedError(
      "session is busy: another call generates in it; wait for its end, or fork the session");
}

absl::Status Sessions::CheckTtl(absl::Duration ttl) const {
  if (ttl > absl::ZeroDuration() && ttl <= options_.ttl) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("ttl_seconds is ", absl::ToDoubleSeconds(ttl),
                                                 "; range (0, ",
                                                 absl::ToDoubleSeconds(options_.ttl), "]"));
}

absl::StatusOr<SessionInfo> Sessions::Create(const SessionOwner& owner,
                                             std::optional<absl::Duration> ttl, absl::Time now) {
  Session session;
  session.ttl = ttl.value_or(options_.ttl);
  const absl::Status valid = CheckTtl(session.ttl);
  if (!valid.ok()) return valid;
  MutexLock lock(&mutex_);
  DropExpired(now);
  return AddNew(owner, std::move(session), now);
}

absl::StatusOr<SessionInfo> Sessions::Get(const SessionOwner& owner, absl::string_view handle,
                                          absl::Time now, std::vector<int32_t>* text) {
  MutexLock lock(&mutex_);
  const auto at = Find(owner, handle, now);
  if (!at.ok()) return at.status();
  if (text != nullptr) *text = (*at)->second.text;
  return Describe(**at, now);
}

std::vector<SessionInfo> Sessions::List(const SessionOwner& owner, int limit, absl::Time now,
                                        int* total) {
  MutexLock lock(&mutex_);
  DropExpired(now);
  *total = 0;
  std::vector<SessionInfo> infos;
  const auto account = accounts_.find(owner.tenant);
  if (account == accounts_.end()) return infos;
  *total = account->second.sessions;
  const ByTime& by_use = account->second.by_use;
  for (auto it = by_use.rbegin(); it != by_use.rend() && limit > 0; ++it, --limit) {
    infos.push_back(Describe(*sessions_.find(it->second), now, /*turns=*/false));
  }
  return infos;
}

absl::StatusOr<SessionInfo> Sessions::Fork(const SessionOwner& owner, absl::string_view handle,
                                           absl::Time now) {
  MutexLock lock(&mutex_);
  const auto at = Find(owner, handle, now);
  if (!at.ok()) return at.status();
  Session& source = (*at)->second;
  Session copy;
  copy.text = source.text;
  copy.turns = source.turns;
  copy.ttl = source.ttl;
  copy.origin = source.origin;
  copy.dials = source.dials;
  copy.solver = source.solver;
  copy.end = source.end;
  auto info = AddNew(owner, std::move(copy), now);
  if (info.ok()) Use(&source, now);
  return info;
}

SessionInfo Sessions::Cut(Map::iterator at, int64_t tokens, absl::Time now) {
  Session& session = at->second;
  // Copies, since a vector that gets shorter keeps its memory.
  std::vector<int32_t> text(session.text.begin(), session.text.begin() + tokens);
  std::vector<int32_t> turns;
  for (int32_t end : session.turns) {
    if (turns.empty() ? tokens == 0 : turns.back() == tokens) break;
    turns.push_back(static_cast<int32_t>(std::min<int64_t>(end, tokens)));
  }
  session.past.Change(random_());
  Count(session.tenant, 0, tokens - static_cast<int64_t>(session.text.size()));
  if (text.size() < session.text.size()) session.end.reset();
  session.text = std::move(text);
  session.turns = std::move(turns);
  session.dials.Cut(tokens);
  Use(&session, now);
  return Describe(*at, now);
}

absl::StatusOr<SessionInfo> Sessions::Rewind(const SessionOwner& owner, absl::string_view handle,
                                             int64_t tokens, absl::Time now) {
  MutexLock lock(&mutex_);
  const auto at = FindIdle(owner, handle, now);
  if (!at.ok()) return at.status();
  const Bound bound = {"tokens", 0, static_cast<double>((*at)->second.text.size())};
  const absl::Status status = bound.Check("tokens", static_cast<double>(tokens));
  if (!status.ok()) return status;
  return Cut(*at, tokens, now);
}

absl::StatusOr<SessionInfo> Sessions::RewindTurns(const SessionOwner& owner,
                                                  absl::string_view handle, int64_t turns,
                                                  absl::Time now) {
  MutexLock lock(&mutex_);
  const auto at = FindIdle(owner, handle, now);
  if (!at.ok()) return at.status();
  const std::vector<int32_t>& ends = (*at)->second.turns;
  const Bound bound = {"turns", 0, static_cast<double>(ends.size())};
  const absl::Status status = bound.Check("turns", static_cast<double>(turns));
  if (!status.ok()) return status;
  return Cut(*at, turns == 0 ? 0 : ends[turns - 1], now);
}

absl::Status Sessions::Delete(const SessionOwner& owner, absl::string_view handle, absl::Time now) {
  MutexLock lock(&mutex_);
  const auto at = FindIdle(owner, handle, now);
  if (!at.ok()) return at.status();
  Remove(*at);
  return absl::OkStatus();
}

void Sessions::Expire(absl::Time now) {
  MutexLock lock(&mutex_);
  DropExpired(now);
}

Sessions::Stats Sessions::stats() const {
  MutexLock lock(&mutex_);
  return stats_;
}

absl::StatusOr<Sessions::Turn> Sessions::Begin(const SessionOwner& owner, absl::string_view handle,
                                               absl::Time now) {
  MutexLock lock(&mutex_);
  const auto at = FindIdle(owner, handle, now);
  if (!at.ok()) return at.status();
  Session& session = (*at)->second;
  std::vector<int32_t> text = session.text;
  Use(&session, now);
  SetBusy(&session, true);
  return Turn(this, &session, owner.share, std::move(text));
}

}  // namespace packrat
