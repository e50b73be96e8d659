#include "server/http/call_headers.h"

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "runtime/steady_clock.h"

namespace packrat {

absl::StatusOr<CallInfo> ReadCallInfo(const HttpRequest& request) {
  CallInfo info;
  info.peer = request.peer;
  info.authorization = std::string(request.Header("Authorization"));
  info.request_id = std::string(request.Header("X-Request-Id"));
  info.caller = std::string(request.Header("X-Caller"));
  info.traceparent = std::string(request.Header("Traceparent"));
  const absl::string_view timeout = request.Header("X-Request-Timeout");
  if (timeout.empty()) return info;
  double seconds = 0;
  // As long as gRPC's longest, 99,999,999 hours; NaN is none either.
  if (!absl::SimpleAtod(timeout, &seconds) || !(seconds > 0 && seconds < 3.6e11)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the header X-Request-Timeout is ", timeout.substr(0, 64), "; seconds, in (0, 3.6e11)"));
  }
  info.deadline = SteadyNow() + absl::Seconds(seconds);
  return info;
}

void AddLabels(const CallLabels& labels, HttpAnswer* answer) {
  answer->headers.emplace_back("X-Request-Id", labels.request_id);
  if (!labels.traceresponse.empty()) {
    answer->headers.emplace_back("Traceresponse", labels.traceresponse);
  }
}

}  // namespace packrat
