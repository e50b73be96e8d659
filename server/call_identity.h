// Who calls, according to a call's metadata, and the trailers that answer it.
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

// Who calls, by the metadata `authorization`; becomes the caller of `record`. Null where the server
// has no keys. UNAUTHENTICATED says what is wrong.
absl::StatusOr<std::shared_ptr<ApiTenant>> AuthenticateCall(const ApiKeys* keys,
                                                            const grpc::ServerContextBase& context,
                                                            AccessRecord* record);

// Trailers for a refusal that is worth another try. gRPC's own clients wait for as long as they
// say.
void AddRetryTrailers(const absl::Status& status, grpc::ServerContextBase* context);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CALL_IDENTITY_H_
