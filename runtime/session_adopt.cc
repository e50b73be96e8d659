// Sessions that come from elsewhere, and what a store has of those that are here.
#include <algorithm>
#include <utility>

#include "runtime/session.h"

namespace packrat {

Sessions::Session Sessions::Fresh(SessionContent content) const {
  Session session;
  session.text = std::move(content.text);
  session.turns = std::move(content.turns);
  session.origin = content.origin;
  session.dials = std::move(content.dials);
  session.solver = content.solver;
  session.end = std::make_shared<const TextEnd>();
  const bool told = content.ttl > absl::ZeroDuration();
  session.ttl = told ? std::min(content.ttl, options_.ttl) : options_.ttl;
  return session;
}

SessionInfo Sessions::Preview(absl::string_view handle, const SessionVersion& version,
                              SessionContent content) const {
  Map::value_type entry(KeyOf(handle), Fresh(std::move(content)));
  entry.second.past = SessionPast(version);
  return Describe(entry, entry.second.created);
}

absl::StatusOr<SessionInfo> Sessions::Restore(const SessionOwner& owner, SessionContent content,
                                              absl::Time now) {
  MutexLock lock(&mutex_);
  DropExpired(now);
  return AddNew(owner, Fresh(std::move(content)), now);
}

absl::StatusOr<SessionInfo> Sessions::Adopt(const SessionOwner& owner, absl::string_view handle,
                                            const SessionVersion& version, SessionContent content,
                                            absl::Time now, bool may_add) {
  const Key key = KeyOf(handle);
  if (key == Key()) return Unknown();
  MutexLock lock(&mutex_);
  DropExpired(now);
  Session there = Fresh(std::move(content));
  there.past = SessionPast(version);
  if (sessions_.count(key) == 0 && may_add) return Add(owner, key, std::move(there), now);
  const auto at = FindIdle(owner, handle, now);
  if (!at.ok()) return at.status();
  Session& here = (*at)->second;
  if (here.past.Has(version)) return Describe(**at, now);
  const absl::Status room = Become(owner, &here, std::move(there), now);
  if (!room.ok()) return room;
  return Describe(**at, now);
}

absl::Status Sessions::Become(const SessionOwner& owner, Session* here, Session there,
                              absl::Time now) {
  const int64_t more =
      static_cast<int64_t>(there.text.size()) - static_cast<int64_t>(here->text.size());
  const absl::Status room = more > 0 ? CheckRoom(owner, 0, more) : absl::OkStatus();
  if (!room.ok()) return room;
  if (there.origin != 0) origins_.try_emplace(there.origin, 0);
  Count(here->tenant, 0, more);
  here->text = std::move(there.text);
  here->turns = std::move(there.turns);
  here->past = std::move(there.past);
  here->dials = std::move(there.dials);
  here->solver = there.solver;
  here->end = std::move(there.end);  // Before an origin is left, as in Remove().
  JoinOrigin(there.origin);
  LeaveOrigin(std::exchange(here->origin, there.origin));
  here->ttl = there.ttl;
  here->in_store = there.in_store;
  Use(here, now);
  return absl::OkStatus();
}

void Sessions::Stored(const SessionOwner& owner, absl::string_view handle,
                      const SessionVersion& version, absl::Time until, absl::Time now) {
  MutexLock lock(&mutex_);
  const auto at = Find(owner, handle, now);
  if (!at.ok()) return;
  Session& session = (*at)->second;
  session.past.Stored(version);
  if (session.kept != nullptr) session.kept->past.Stored(version);
  session.in_store = std::max(session.in_store, until);
}

void Sessions::LostByStore(const SessionOwner& owner, absl::string_view handle, absl::Time now) {
  MutexLock lock(&mutex_);
  const auto at = Find(owner, handle, now);
  if (at.ok()) (*at)->second.in_store = absl::InfinitePast();
}

}  // namespace packrat
