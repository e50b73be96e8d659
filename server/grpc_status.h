// The one place that turns an absl::Status into a grpc::Status.
#ifndef PACKRAT_SERVER_GRPC_STATUS_H_
#define PACKRAT_SERVER_GRPC_STATUS_H_

#include <string>

#include "absl/status/status.h"

namespace grpc {
class Status;
}

namespace packrat {

// Codes have the same numbers on both sides; UNKNOWN, which says nothing, becomes INTERNAL.
// RESOURCE_EXHAUSTED carries a google.rpc.RetryInfo of RetryAfter(status).
grpc::Status ToGrpcStatus(const absl::Status& status);

// "OK", "INVALID_ARGUMENT", ...: for the log and for metrics.
std::string StatusName(const absl::Status& status);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_STATUS_H_
