// A session store for many replicas: Redis from version 4 on, Valkey, or another server with their
// protocol. A session is a hash under PREFIX TENANT : HANDLE with its version (v) and bytes (b).
// There is no TLS, so the store should be in a private network.
#ifndef PACKRAT_SERVER_STORE_REDIS_STORE_H_
#define PACKRAT_SERVER_STORE_REDIS_STORE_H_

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
  absl::Duration timeout = absl::Seconds(2);      // Of a call, connecting included.
  absl::Duration retry_after = absl::Seconds(1);  // Without asking, after a failure to connect.
  int max_idle = 16;                              // Connections that are kept open.
  int64_t max_bytes = int64_t{512} << 20;  // Of one session; Redis takes no more as one value.
};

// "redis://[USER@]HOST[:PORT][/DATABASE]" or "redis+unix:/PATH". INVALID_ARGUMENT: neither. An
// address has no password, since others can read a process's arguments.
absl::StatusOr<RedisAddress> ParseRedisAddress(absl::string_view text);

// Thread-safe.
class RedisStore : public SessionStore {
 public:
  explicit RedisStore(RedisStoreOptions options) : options_(std::move(options)) {}

  absl::Status Put(const StoreKey& key, int64_t version, absl::Span<const absl::string_view> pieces,
                   absl::Duration ttl) override;
  absl::StatusOr<StoredSession> Get(const StoreKey& key) override;
  absl::StatusOr<int64_t> Version(const StoreKey& key) override;
  absl::Status Delete(const StoreKey& key) override;

 private:
  using Connection = std::unique_ptr<RedisConnection>;
  using Replies = std::vector<RedisConnection::Reply>;

  std::string NameOf(const StoreKey& key) const;
  // Connects. For retry_after after a failure it is UNAVAILABLE at once.
  absl::StatusOr<Connection> Connect(absl::Time deadline);
  // Sends the commands on an idle connection, or on a new one if there is none or it is broken.
  // *connection is the one that was used.
  absl::StatusOr<Replies> Begin(const std::vector<RedisConnection::Command>& commands,
                                absl::Time deadline, Connection* connection);
  void Keep(Connection connection);

  const RedisStoreOptions options_;
  Mutex mutex_;
  std::vector<Connection> idle_ ABSL_GUARDED_BY(mutex_);
  absl::Time down_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_STORE_REDIS_STORE_H_
