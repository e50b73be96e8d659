// A connection to Redis or Valkey on which every call ends by its deadline, whatever the other side
// does. Not thread-safe.
#ifndef PACKRAT_SERVER_STORE_REDIS_CONNECTION_H_
#define PACKRAT_SERVER_STORE_REDIS_CONNECTION_H_

#include <hiredis.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace packrat {

struct RedisAddress {
  std::string host = "127.0.0.1";
  int port = 6379;
  std::string path;  // Of a Unix domain socket; empty: TCP.
  int database = 0;
  std::string username;  // Empty: the default one.
  std::string password;  // Empty: none is asked for.
};

class RedisConnection {
 public:
  using Reply = std::unique_ptr<redisReply, void (*)(void*)>;
  using Command = std::vector<absl::string_view>;

  // UNAVAILABLE: nobody answers there, or refuses the password or database. `deadline` is of
  // SteadyNow(); the system's resolver, which turns names into addresses, has limits of its own.
  static absl::StatusOr<std::unique_ptr<RedisConnection>> Open(const RedisAddress& address,
                                                               absl::Time deadline);

  // Sends the commands and waits for a reply to each. On success no reply is an error. UNAVAILABLE:
  // the connection is of no use any more. Errors of Redis: RESOURCE_EXHAUSTED if it has no memory,
  // UNAVAILABLE if it cannot serve now, otherwise INTERNAL.
  absl::StatusOr<std::vector<Reply>> Call(const std::vector<Command>& commands,
                                          absl::Time deadline);

 private:
  explicit RedisConnection(redisContext* context) : context_(context, redisFree) {}
  absl::Status Wait(short events, absl::Time deadline);
  absl::Status Send(absl::string_view bytes, absl::Time deadline);
  absl::StatusOr<Reply> Receive(absl::Time deadline);

  const std::unique_ptr<redisContext, void (*)(redisContext*)> context_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_STORE_REDIS_CONNECTION_H_
