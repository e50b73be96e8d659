#include "server/store/redis_store.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/steady_clock.h"
#include "server/net/listen_address.h"

namespace packrat {
namespace {

// What a call that broke off has left.
constexpr absl::string_view kStagedMilliseconds = "60000";

std::string FieldOf(int piece) { return piece == 0 ? "b" : absl::StrCat("b", piece); }

absl::Status NoSuchSession() { return absl::NotFoundError("there is no such session"); }

std::string TextOf(const SessionVersion& version) {
  return absl::StrCat(version.revision, ".", version.change);
}

std::string MillisecondsOf(absl::Duration ttl) {
  return absl::StrCat(std::max<int64_t>(1, absl::ToInt64Milliseconds(ttl)));
}

// The version in a field of a hash, which may not exist.
absl::StatusOr<SessionVersion> VersionIn(const redisReply& reply) {
  if (reply.type == REDIS_REPLY_NIL) return NoSuchSession();
  SessionVersion version;
  const absl::string_view text(reply.str, reply.type == REDIS_REPLY_STRING ? reply.len : 0);
  const size_t dot = text.find('.');
  if (!absl::SimpleAtoi(text.substr(0, dot), &version.revision) ||
      (dot != text.npos && !absl::SimpleAtoi(text.substr(dot + 1), &version.change))) {
    return absl::DataLossError("the session store has no number as the version of the session");
  }
  return version;
}

}  // namespace

absl::StatusOr<RedisAddress> ParseRedisAddress(absl::string_view text) {
  const absl::Status wrong = absl::InvalidArgumentError(
      absl::StrCat("'", text,
                   "' is not an address of Redis: redis://[USER@]HOST[:PORT][/DATABASE] or "
                   "redis+unix:/PATH"));
  RedisAddress address;
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "redis+unix:")) {
    if (!absl::StartsWith(rest, "/")) return wrong;
    address.path = std::string(rest);
    return address;
  }
  if (!absl::ConsumePrefix(&rest, "redis://")) return wrong;
  if (const size_t slash = rest.find('/'); slash != rest.npos) {
    if (!absl::SimpleAtoi(rest.substr(slash + 1), &address.database) || address.database < 0) {
      return wrong;
    }
    rest = rest.substr(0, slash);
  }
  if (const size_t at = rest.rfind('@'); at != rest.npos) {
    address.username = std::string(rest.substr(0, at));
    if (address.username.empty() || absl::StrContains(address.username, ':')) return wrong;
    rest = rest.substr(at + 1);
  }
  const bool has_port = absl::StrContains(rest.substr(rest.rfind(']') + 1), ':');
  const auto host = ParseListenAddress(absl::StrCat(rest, has_port ? "" : ":6379"));
  if (!host.ok() || host->host.empty() || !host->path.empty() || host->port == 0) return wrong;
  address.host = host->host;
  address.port = host->port;
  return address;
}

RedisStore::RedisStore(RedisStoreOptions options)
    : options_(std::move(options)),
      own_(uint64_t{std::random_device()()} << 32 | std::random_device()()) {}

std::string RedisStore::NameOf(const StoreKey& key) const {
  // A handle has no colon, so the tenant is what stands before the last one.
  return absl::StrCat(options_.prefix, key.tenant, ":", key.handle);
}

absl::StatusOr<RedisStore::Connection> RedisStore::Connect(absl::Time deadline) {
  {
    const MutexLock lock(&mutex_);
    if (SteadyNow() < down_until_) {
      return absl::UnavailableError("the session store did not answer a moment ago");
    }
  }
  absl::StatusOr<Connection> connection = RedisConnection::Open(options_.address, deadline);
  if (!connection.ok()) {
    const MutexLock lock(&mutex_);
    down_until_ = SteadyNow() + options_.retry_after;
  }
  return connection;
}

absl::StatusOr<RedisStore::Replies> RedisStore::Call(
    const std::vector<RedisConnection::Command>& commands, Connection* connection) {
  const absl::Time deadline = SteadyNow() + options_.timeout;
  if (*connection != nullptr) return (*connection)->Call(commands, deadline);
  {
    const MutexLock lock(&mutex_);
    if (!idle_.empty()) {
      *connection = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (*connection != nullptr) {
    absl::StatusOr<Replies> replies = (*connection)->Call(commands, deadline);
    if (!absl::IsUnavailable(replies.status()) || SteadyNow() >= deadline) return replies;
    // The connection was closed since it was last used. If the store was restarted, all were.
    const MutexLock lock(&mutex_);
    idle_.clear();
  }
  absl::StatusOr<Connection> fresh = Connect(deadline);
  if (!fresh.ok()) return fresh.status();
  *connection = *std::move(fresh);
  return (*connection)->Call(commands, deadline);
}

void RedisStore::Keep(Connection connection) {
  const MutexLock lock(&mutex_);
  if (static_cast<int>(idle_.size()) < options_.max_idle) idle_.push_back(std::move(connection));
}

absl::Status RedisStore::Put(const StoreKey& key, const SessionPast& past, const Source& next,
                             absl::Duration ttl) {
  const std::string name = NameOf(key);
  // No handle has these characters. What is in braces decides in which slot of a cluster a name is,
  // and two names of one transaction must be in the same.
  const std::string staged =
      absl::StrCat(options_.prefix, "{", name, "}#", absl::Hex(own_), "-", ++puts_);
  Connection connection;
  const absl::StatusOr<int> fields = Stage(staged, TextOf(past.now()), next, &connection);
  absl::Status status = fields.status();
  if (status.ok()) status = Move(staged, name, *fields, past, ttl, &connection);
  if (status.ok()) {
    Keep(std::move(connection));
  } else if (connection != nullptr && !absl::IsUnavailable(status)) {
    // A connection that may still watch is not kept.
    Call({{"DEL", staged}}, &connection).status().IgnoreError();
  }
  return absl::IsAlreadyExists(status) ? absl::OkStatus() : status;
}

absl::StatusOr<int> RedisStore::Stage(const std::string& name, const std::string& version,
                                      const Source& next, Connection* connection) {
  int fields = 0;
  for (bool last = false; !last;) {
    const absl::StatusOr<std::string> piece = next();
    if (!piece.ok()) return piece.status();
    last = piece->empty();
    if (last && fields > 0) break;
    // One at least, be it empty.
    size_t at = 0;
    do {
      const absl::string_view bytes = absl::string_view(*piece).substr(at, options_.piece_bytes);
      at += bytes.size();
      const std::string number = FieldOf(fields), count = absl::StrCat(++fields);
      RedisConnection::Command put = {"HSET", name, "v", version, number, bytes};
      if (fields > 1) put.insert(put.end(), {"n", count});
      const absl::Status status =
          Call({{"MULTI"}, put, {"PEXPIRE", name, kStagedMilliseconds}, {"EXEC"}}, connection)
              .status();
      if (!status.ok()) return status;
    } while (at < piece->size());
  }
  return fields > 1 ? fields + 2 : 2;
}

absl::Status RedisStore::Move(const std::string& from, const std::string& to, int fields,
                              const SessionPast& past, absl::Duration ttl, Connection* connection) {
  const std::string milliseconds = MillisecondsOf(ttl);
  const absl::Time deadline = SteadyNow() + options_.timeout;
  // Again, while others change the session at the same time. This is no failure of the store.
  do {
    absl::StatusOr<Replies> seen =
        Call({{"WATCH", from, to}, {"HGET", to, "v"}, {"HLEN", from}}, connection);
    if (!seen.ok()) return seen.status();
    if (seen->at(2)->integer != fields) {
      return absl::ResourceExhaustedError("the session store has dropped what was put there");
    }
    const absl::StatusOr<SessionVersion> before = VersionIn(*seen->at(1));
    if (before.ok()) {
      if (*before == past.now()) return absl::AlreadyExistsError("");
      const absl::Status place = CheckComesFrom(*before, past);
      if (!place.ok()) return place;
    }
    if (!before.ok() && !absl::IsNotFound(before.status())) return before.status();
    absl::StatusOr<Replies> done = Call(
        {{"MULTI"}, {"RENAME", from, to}, {"PEXPIRE", to, milliseconds}, {"EXEC"}}, connection);
    if (!done.ok()) return done.status();
    if (done->at(3)->type != REDIS_REPLY_NIL) return absl::OkStatus();
  } while (SteadyNow() < deadline);
  return absl::UnavailableError("others change the session in the store all the time");
}

absl::StatusOr<SessionVersion> RedisStore::Get(const StoreKey& key, const Sink& take) {
  const std::string name = NameOf(key);
  Connection connection;
  std::optional<SessionVersion> version;
  int64_t pieces = 1;
  bool more = true;
  for (int i = 0; i < pieces && more; ++i) {
    const std::string field = FieldOf(i);
    absl::StatusOr<Replies> replies = Call({{"HMGET", name, "v", "n", field}}, &connection);
    if (!replies.ok()) return replies.status();
    const redisReply& fields = *replies->at(0);
    if (fields.type != REDIS_REPLY_ARRAY || fields.elements != 3) {
      return absl::DataLossError("the session store answers with something else than three fields");
    }
    const absl::StatusOr<SessionVersion> found = VersionIn(*fields.element[0]);
    if (!found.ok()) return found.status();
    if (*found == kDeletedSession) return NoSuchSession();
    if (version.has_value() && !(*version == *found)) {
      return absl::AbortedError("the session was changed in the store while it was read");
    }
    version = *found;
    const redisReply &count = *fields.element[1], &bytes = *fields.element[2];
    const bool counted =
        count.type == REDIS_REPLY_NIL ||
        (count.type == REDIS_REPLY_STRING && absl::SimpleAtoi({count.str, count.len}, &pieces));
    if (!counted || bytes.type != REDIS_REPLY_STRING) {
      return absl::DataLossError(
          "the session store has a version of the session without its bytes");
    }
    const absl::StatusOr<bool> taken = take({bytes.str, bytes.len});
    if (!taken.ok()) return taken.status();
    more = *taken;
  }
  Keep(std::move(connection));
  return *version;
}

absl::StatusOr<SessionVersion> RedisStore::Version(const StoreKey& key) {
  const std::string name = NameOf(key);
  Connection connection;
  absl::StatusOr<Replies> replies = Call({{"HGET", name, "v"}}, &connection);
  if (!replies.ok()) return replies.status();
  Keep(std::move(connection));
  return VersionIn(*replies->at(0));
}

absl::Status RedisStore::Delete(const StoreKey& key, absl::Duration ttl) {
  const std::string name = NameOf(key), deleted = TextOf(kDeletedSession),
                    milliseconds = MillisecondsOf(ttl);
  Connection connection;
  // First alone, so that a store that is full has room for what stays; and again, in case that
  // somebody has put it there meanwhile.
  absl::Status status = Call({{"DEL", name}}, &connection).status();
  if (!status.ok()) return status;
  status = Call({{"MULTI"},
                 {"DEL", name},
                 {"HSET", name, "v", deleted},
                 {"PEXPIRE", name, milliseconds},
                 {"EXEC"}},
                &connection)
               .status();
  if (!status.ok() && !absl::IsResourceExhausted(status)) return status;
  Keep(std::move(connection));
  return absl::OkStatus();
}

}  // namespace packrat
