// Calls with one message that the server knows from their beginning.
//
// gRPC's callback interface shows such a call only when its message is whole. Until then nobody
// counts it, and only its client's deadline ends it. So the library is told that it is a stream,
// which it shows at once, and one message of it is read.
#ifndef PACKRAT_SERVER_GRPC_MESSAGE_FIRST_H_
#define PACKRAT_SERVER_GRPC_MESSAGE_FIRST_H_

#include <grpc/grpc.h>
#include <grpcpp/impl/rpc_service_method.h>

#include <memory>

#include "server/grpc/unread_calls.h"

namespace packrat {

// Ends a call with a status, whenever it comes; holds the call's memory until then.
UnreadCalls::End EndOf(grpc_call* call);

// The handler of a method of the type BIDI_STREAMING: reads the message of each call, counted among
// `calls`, and goes on with `handler`, that of a method with one message. `calls` outlives it.
std::unique_ptr<grpc::internal::MethodHandler> MessageFirst(
    std::unique_ptr<grpc::internal::MethodHandler> handler, UnreadCalls* calls);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_MESSAGE_FIRST_H_
