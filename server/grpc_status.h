// The one place that turns a status of the house into one of gRPC.
#ifndef PACKRAT_SERVER_GRPC_STATUS_H_
#define PACKRAT_SERVER_GRPC_STATUS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace grpc {
class Status;
}

namespace packrat {

// What a refused caller is told to wait before the next try.
inline constexpr absl::Duration kRetryDelay = absl::Seconds(1);

// Codes have the same numbers on both sides; UNKNOWN, which says nothing, becomes INTERNAL.
// RESOURCE_EXHAUSTED carries a google.rpc.RetryInfo of kRetryDelay.
grpc::Status ToGrpcStatus(const absl::Status& status);

// "OK", "INVALID_ARGUMENT", ...: for the log and for metrics.
std::string StatusName(const absl::Status& status);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_STATUS_H_
