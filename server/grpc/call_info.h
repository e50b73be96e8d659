// What gRPC knows of a call, for server/generation, and what gRPC's client is told with its answer.
#ifndef PACKRAT_SERVER_GRPC_CALL_INFO_H_
#define PACKRAT_SERVER_GRPC_CALL_INFO_H_

#include <grpc/support/time.h>

#include "absl/time/time.h"
#include "server/generation/caller.h"

namespace grpc {
class ServerContextBase;
}

namespace packrat {

// From the call's metadata.
CallInfo CallInfoOf(const grpc::ServerContextBase& context);

// On the clock of SteadyNow(). InfiniteFuture() if there is none.
absl::Time SteadyDeadline(gpr_timespec deadline);

// Into the trailers. Call it before anything is sent.
void AddLabels(const CallLabels& labels, grpc::ServerContextBase* context);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_CALL_INFO_H_
