#include "server/store/redis_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "runtime/steady_clock.h"
#include "server/net/listen_address.h"

namespace packrat {
namespace {

absl::Status NoSuchSession() { return absl::NotFoundError("there is no such session"); }

// The version in a field of a hash, which may not exist.
absl::StatusOr<int64_t> VersionIn(const redisReply& reply) {
  if (reply.type == REDIS_REPLY_NIL) return NoSuchSession();
  int64_t version;
  if (reply.type != REDIS_REPLY_STRING ||
      !absl::SimpleAtoi(absl::string_view(reply.str, reply.len), &version)) {
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

absl::StatusOr<RedisStore::Replies> RedisStore::Begin(
    const std::vector<RedisConnection::Command>& commands, absl::Time deadline,
    Connection* connection) {
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

absl::Status RedisStore::Put(const StoreKey& key, int64_t version,
                             absl::Span<const absl::string_view> pieces, absl::Duration ttl) {
  const std::string joined = pieces.size() == 1 ? "" : absl::StrJoin(pieces, "");
  const absl::string_view bytes = pieces.size() == 1 ? pieces[0] : joined;
  if (static_cast<int64_t>(bytes.size()) > options_.max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("the session has ", bytes.size(),
                                                     " bytes; the session store takes up to ",
                                                     options_.max_bytes));
  }
  const absl::Time deadline = SteadyNow() + options_.timeout;
  const std::string name = NameOf(key), number = absl::StrCat(version);
  const std::string milliseconds =
      absl::StrCat(std::max<int64_t>(1, absl::ToInt64Milliseconds(ttl)));
  // Again, while others change the session at the same time. This is no failure of the store: their
  // versions grow, and soon one is newer than ours.
  do {
    Connection connection;
    absl::StatusOr<Replies> seen =
        Begin({{"WATCH", name}, {"HGET", name, "v"}}, deadline, &connection);
    if (!seen.ok()) return seen.status();
    const absl::StatusOr<int64_t> before = VersionIn(*seen->at(1));
    // A connection that still watches is not kept.
    if (before.ok() && *before >= version) {
      return absl::AbortedError(
          absl::StrCat("the store has version ", *before, " of the session; this is ", version));
    }
    if (!before.ok() && !absl::IsNotFound(before.status())) return before.status();
    absl::StatusOr<Replies> done = connection->Call({{"MULTI"},
                                                     {"HSET", name, "v", number, "b", bytes},
                                                     {"PEXPIRE", name, milliseconds},
                                                     {"EXEC"}},
                                                    deadline);
    if (!done.ok()) return done.status();
    Keep(std::move(connection));
    if (done->at(3)->type != REDIS_REPLY_NIL) return absl::OkStatus();
  } while (SteadyNow() < deadline);
  return absl::UnavailableError("others change the session in the store all the time");
}

absl::StatusOr<StoredSession> RedisStore::Get(const StoreKey& key) {
  const std::string name = NameOf(key);
  Connection connection;
  absl::StatusOr<Replies> replies =
      Begin({{"HMGET", name, "v", "b"}}, SteadyNow() + options_.timeout, &connection);
  if (!replies.ok()) return replies.status();
  Keep(std::move(connection));
  const redisReply& fields = *replies->at(0);
  if (fields.type != REDIS_REPLY_ARRAY || fields.elements != 2) {
    return absl::DataLossError("the session store answers with something else than two fields");
  }
  const absl::StatusOr<int64_t> version = VersionIn(*fields.element[0]);
  if (!version.ok()) return version.status();
  const redisReply& bytes = *fields.element[1];
  if (bytes.type != REDIS_REPLY_STRING) {
    return absl::DataLossError("the session store has a version of the session without its bytes");
  }
  return StoredSession{*version, std::string(bytes.str, bytes.len)};
}

absl::StatusOr<int64_t> RedisStore::Version(const StoreKey& key) {
  const std::string name = NameOf(key);
  Connection connection;
  absl::StatusOr<Replies> replies =
      Begin({{"HGET", name, "v"}}, SteadyNow() + options_.timeout, &connection);
  if (!replies.ok()) return replies.status();
  Keep(std::move(connection));
  return VersionIn(*replies->at(0));
}

absl::Status RedisStore::Delete(const StoreKey& key) {
  const std::string name = NameOf(key);
  Connection connection;
  absl::StatusOr<Replies> replies =
      Begin({{"DEL", name}}, SteadyNow() + options_.timeout, &connection);
  if (!replies.ok()) return replies.status();
  Keep(std::move(connection));
  return absl::OkStatus();
}

}  // namespace packrat
