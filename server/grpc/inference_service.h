// packrat.v1.Inference on gRPC's callback interface.
#ifndef PACKRAT_SERVER_GRPC_INFERENCE_SERVICE_H_
#define PACKRAT_SERVER_GRPC_INFERENCE_SERVICE_H_

#include <grpcpp/impl/rpc_service_method.h>

#include <memory>

#include "proto/packrat/v1/inference.grpc.pb.h"
#include "server/generation/call_environment.h"
#include "server/generation/unary_call.h"
#include "server/grpc/unread_calls.h"

namespace packrat {

class InferenceService final : public v1::Inference::CallbackService {
 public:
  // Calls whose message has not arrived yet are counted in `unread`. Both outlive the service.
  InferenceService(CallEnvironment* environment, UnreadCalls* unread);

  // Its messages are many, so it is no call of UnreadCalls: it looks after slow clients itself.
  grpc::ServerReadReactor<v1::LoadSessionRequest>* LoadSession(
      grpc::CallbackServerContext* context, v1::LoadSessionResponse* response) override;

 private:
  void Serve(const char* method, std::unique_ptr<grpc::internal::MethodHandler> handler);
  // A method with one message, whose answers are many: `start` makes the reactor.
  template <typename Request, typename Response, typename Start>
  void ServeStream(const char* method, Start start);
  template <typename Request, typename Response>
  void ServeUnary(const UnaryMethod<Request, Response>& method);

  CallEnvironment* const environment_;
  UnreadCalls* const unread_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_INFERENCE_SERVICE_H_
