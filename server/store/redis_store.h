// A session store for many replicas: Redis from version 4 on, Valkey, or another server with their
// protocol. A session is a hash under PREFIX TENANT : HANDLE with its version (v: REVISION.CHANGE,
// and of servers before that the revision alone), the number of pieces of its bytes (n, where there
// are several) and these (b, b1, b2, ...). They are put under a name that nobody reads, from which
// a broken call's vanish, and take their place all at once; in a cluster both names are in one
// slot. There is no TLS, so the store should be in a private network.
#ifndef PACKRAT_SERVER_STORE_REDIS_STORE_H_
#define PACKRAT_SERVER_STORE_REDIS_STORE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "runtime/mutex.h"
#include "runtime/session_store.h"
#include "server/store/redis_connection.h"

namespace packrat {

struct RedisStoreOptions {
  RedisAddress address;
  std::string prefix = "packrat:";
  absl::Duration timeout = absl::Seconds(2);      // Of a piece, connecting included.
  absl::Duration retry_after = absl::Seconds(1);  // Without asking, after a failure to connect.
  int max_idle = 16;                              // Connections that are kept open.
  // Of a field. Each has the timeout anew, so that a slow way takes long and does not fail.
  size_t piece_bytes = size_t{512} << 10;
};

// "redis://[USER@]HOST[:PORT][/DATABASE]" or "redis+unix:/PATH". INVALID_ARGUMENT: neither. An
// address has no password, since others can read a process's arguments.
absl::StatusOr<RedisAddress> ParseRedisAddress(absl::string_view text);

// Thread-safe.
class RedisStore : public SessionStore {
 public:
  explicit RedisStore(RedisStoreOptions options);

  absl::Status Put(const StoreKey& key, const SessionPast& past, const Source& next,
                   absl::Duration ttl) override;
  absl::StatusOr<SessionVersion> Get(const StoreKey& key, const Sink& take) override;
  absl::StatusOr<SessionVersion> Version(const StoreKey& key) override;
  absl::Status Delete(const StoreKey& key, absl::Duration ttl) override;

 private:
  using Connection = std::unique_ptr<RedisConnection>;
  using Replies = std::vector<RedisConnection::Reply>;

  std::string NameOf(const StoreKey& key) const;
  // Connects. For retry_after after a failure it is UNAVAILABLE at once.
  absl::StatusOr<Connection> Connect(absl::Time deadline);
  // Sends the commands on *connection, the one that was used before; where that is null on an idle
  // one, or on a new one if there is none or it is broken.
  absl::StatusOr<Replies> Call(const std::vector<RedisConnection::Command>& commands,
                               Connection* connection);
  // Puts all under a name of the call's own: how many fields that are. A piece begins a field, so
  // that who wants the first alone gets little more.
  absl::StatusOr<int> Stage(const std::string& name, const std::string& version, const Source& next,
                            Connection* connection);
  // Gives it its place, if that many are there. ALREADY_EXISTS: it is there.
  absl::Status Move(const std::string& from, const std::string& to, int fields,
                    const SessionPast& past, absl::Duration ttl, Connection* connection);
  void Keep(Connection connection);

  const RedisStoreOptions options_;
  const uint64_t own_;  // No other process has it in its names.
  std::atomic<int64_t> puts_{0};
  Mutex mutex_;
  std::vector<Connection> idle_ ABSL_GUARDED_BY(mutex_);
  absl::Time down_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_STORE_REDIS_STORE_H_
