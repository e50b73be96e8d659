#include "server/generation/call_status.h"

#include "runtime/retry_after.h"

namespace packrat {

absl::StatusCode WireCode(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnknown ? absl::StatusCode::kInternal : status.code();
}

std::string StatusName(const absl::Status& status) {
  return absl::StatusCodeToString(WireCode(status));
}

std::optional<absl::Duration> RetryDelay(const absl::Status& status) {
  if (status.code() != absl::StatusCode::kResourceExhausted) return std::nullopt;
  return RetryAfter(status);
}

}  // namespace packrat
