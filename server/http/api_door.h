// What every request to an API goes through: who asks, whether calls are taken, and a thread that
// may read a body of its length.
#ifndef PACKRAT_SERVER_HTTP_API_DOOR_H_
#define PACKRAT_SERVER_HTTP_API_DOOR_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/generation/call_account.h"
#include "server/generation/call_environment.h"
#include "server/generation/caller.h"
#include "server/http/http_reply.h"

namespace packrat {

// A request that has been let in.
struct ApiRequest {
  CallEnvironment* environment;
  HttpRequest http;
  CallInfo info;
  std::shared_ptr<HttpReply> reply;
  std::shared_ptr<CallAccount> account;  // Of a request that comes to no call.
  std::function<HttpAnswer(const absl::Status&)> refuse;

  // The answer for one that comes to no call; it is logged and counted. `http_status`: where it is
  // not the one of `status`.
  void Refuse(const absl::Status& status, std::optional<int> http_status = std::nullopt) const;
  void Answer(HttpAnswer answer) const;
};

// An API's handler. `call`, `path`: what its calls are named in the log, the first in metrics too;
// the path is its route's. `work` must be
// quick if the body is short (WorkPool::kShortBytes): the server's thread runs it then.
struct ApiDoor {
  CallEnvironment* environment;
  const char* call;
  std::string path;
  std::function<HttpAnswer(const absl::Status&)> refuse;
  std::function<void(std::shared_ptr<ApiRequest>)> work;

  void operator()(HttpRequest http, std::shared_ptr<HttpReply> reply) const;
};

// Whether the body is said to be of this type. A page of another site cannot send the types that
// are asked for here without asking the server first. So no page that somebody looks at can use a
// server that is reachable from there and needs no key.
bool HasType(const HttpRequest& http, absl::string_view type);
// Where it is not; the answer then has the status 415.
absl::Status WrongType(absl::string_view type);

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_API_DOOR_H_
