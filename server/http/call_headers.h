// What calls and their clients tell each other in headers.
#ifndef PACKRAT_SERVER_HTTP_CALL_HEADERS_H_
#define PACKRAT_SERVER_HTTP_CALL_HEADERS_H_

#include "absl/status/statusor.h"
#include "server/generation/caller.h"
#include "server/http/http_reply.h"

namespace packrat {

// Authorization, X-Request-Id, X-Caller, Traceparent, and X-Request-Timeout, in seconds from now:
// INVALID_ARGUMENT if that is no such number.
absl::StatusOr<CallInfo> ReadCallInfo(const HttpRequest& request);

void AddLabels(const CallLabels& labels, HttpAnswer* answer);

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_CALL_HEADERS_H_
