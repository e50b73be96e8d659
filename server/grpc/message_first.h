// Calls with one message, known to the server from their beginning.
//
// gRPC's callback interface shows such a call only when its message is complete. Until then nobody
// counts it, and only its client's deadline ends it. So we tell the library that the call is a
// stream, which it shows at once, and read one message of it.
#ifndef PACKRAT_SERVER_GRPC_MESSAGE_FIRST_H_
#define PACKRAT_SERVER_GRPC_MESSAGE_FIRST_H_

#include <grpc/grpc.h>
#include <grpcpp/impl/rpc_service_method.h>

#include <memory>

#include "server/grpc/unread_calls.h"

namespace packrat {

// Ends a call with a status. Holds the call's memory until then.
UnreadCalls::End EndOf(grpc_call* call);

// A handler of the type BIDI_STREAMING. It counts each call among `calls`, reads its message, and
// then uses `handler`, which is for methods with one message. `calls` outlives it.
std::unique_ptr<grpc::internal::MethodHandler> MessageFirst(
    std::unique_ptr<grpc::internal::MethodHandler> handler, UnreadCalls* calls);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_MESSAGE_FIRST_H_
