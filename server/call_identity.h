// Finds out who calls, from a call's metadata, and adds trailers for the caller.
#ifndef PACKRAT_SERVER_CALL_IDENTITY_H_
#define PACKRAT_SERVER_CALL_IDENTITY_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace grpc {
class ServerContextBase;
}

namespace packrat {

class ApiKeys;
class ApiTenant;
struct AccessRecord;

// Fills id, caller, peer, call and the trace of `record`, and puts the id and the trace's span into
// the trailers. Call it before anything is sent. An id or label with characters that the contract
// does not allow is replaced or dropped: it would end up in other people's log tools.
void IdentifyCall(const char* call, grpc::ServerContextBase* context, AccessRecord* record);

// The tenant that calls, by the metadata `authorization`; it becomes the caller of `record`. Null
// if the server has no keys. UNAUTHENTICATED says what is wrong.
absl::StatusOr<std::shared_ptr<ApiTenant>> AuthenticateCall(const ApiKeys* keys,
                                                            const grpc::ServerContextBase& context,
                                                            AccessRecord* record);

// Adds trailers to a refusal that a client may retry. They tell gRPC's clients how long to wait.
void AddRetryTrailers(const absl::Status& status, grpc::ServerContextBase* context);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CALL_IDENTITY_H_
