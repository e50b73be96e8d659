// The one place that turns an absl::Status into a grpc::Status.
#ifndef PACKRAT_SERVER_GRPC_GRPC_STATUS_H_
#define PACKRAT_SERVER_GRPC_GRPC_STATUS_H_

#include "absl/status/status.h"

namespace grpc {
class ServerContextBase;
class Status;
}  // namespace grpc

namespace packrat {

// What the call of `context` is to finish with. Codes have the same numbers on both sides; UNKNOWN,
// which says nothing, becomes INTERNAL. A refusal that is worth another try tells when: in a
// google.rpc.RetryInfo, and for gRPC's own retries in a trailer.
grpc::Status ToGrpcStatus(const absl::Status& status, grpc::ServerContextBase* context);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_GRPC_STATUS_H_
