// A call with one answer on gRPC's callback interface.
#ifndef PACKRAT_SERVER_GRPC_UNARY_REACTOR_H_
#define PACKRAT_SERVER_GRPC_UNARY_REACTOR_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>

#include "absl/status/status.h"
#include "server/generation/unary_call.h"
#include "server/grpc/call_info.h"
#include "server/grpc/grpc_status.h"

namespace packrat {

// Owned by itself until gRPC is done with it.
class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  // gRPC keeps request and response until the call is done.
  template <typename Request, typename Response>
  static UnaryReactor* Start(const UnaryMethod<Request, Response>& method,
                             CallEnvironment* environment, grpc::CallbackServerContext* context,
                             const Request* request, Response* response) {
    auto* reactor = new UnaryReactor;
    reactor->call_ = UnaryCall::Create(method, environment, CallInfoOf(*context), request, response,
                                       [reactor, context](const absl::Status& status) {
                                         reactor->Finish(ToGrpcStatus(status, context));
                                       });
    AddLabels(reactor->call_->labels(), context);
    // gRPC calls nothing of it before it has it.
    reactor->call_->Start();
    return reactor;
  }

  void OnCancel() override { call_->Cancelled(); }
  void OnDone() override { delete this; }

 private:
  std::shared_ptr<UnaryCall> call_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_UNARY_REACTOR_H_
