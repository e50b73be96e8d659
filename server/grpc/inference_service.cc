#include "server/grpc/inference_service.h"

#include <utility>

#include "server/generation/generation.h"
#include "server/generation/unary_methods.h"
#include "server/grpc/generate_reactor.h"
#include "server/grpc/load_call.h"
#include "server/grpc/message_first.h"
#include "server/grpc/save_call.h"
#include "server/grpc/unary_reactor.h"

namespace packrat {

InferenceService::InferenceService(CallEnvironment* environment, UnreadCalls* unread)
    : environment_(environment), unread_(unread) {
  ServeStream<v1::GenerateRequest, v1::GenerateResponse>(
      "Generate", [environment](auto* context, auto* request) {
        return GenerateReactor::Start(&Generation::Generate, environment, context, request);
      });
  ServeStream<v1::ScoreRequest, v1::GenerateResponse>(
      "Score", [environment](auto* context, auto* request) {
        return GenerateReactor::Start(&Generation::Score, environment, context, request);
      });
  ServeStream<v1::SaveSessionRequest, v1::SaveSessionResponse>(
      "SaveSession", [environment](auto* context, auto* request) {
        return SaveCall::Start(environment, context, request);
      });
  ForEachUnaryMethod([this](const auto& method) { ServeUnary(method); });
}

grpc::ServerReadReactor<v1::LoadSessionRequest>* InferenceService::LoadSession(
    grpc::CallbackServerContext* context, v1::LoadSessionResponse* response) {
  return LoadCall::Start(environment_, context, response);
}

void InferenceService::Serve(const char* method,
                             std::unique_ptr<grpc::internal::MethodHandler> handler) {
  const auto* service = v1::GenerateRequest::descriptor()->file()->FindServiceByName("Inference");
  MarkMethodStreamed(service->FindMethodByName(method)->index(),
                     MessageFirst(std::move(handler), unread_).release());
}

template <typename Request, typename Response, typename Start>
void InferenceService::ServeStream(const char* method, Start start) {
  Serve(method,
        std::make_unique<grpc::internal::CallbackServerStreamingHandler<Request, Response>>(start));
}

template <typename Request, typename Response>
void InferenceService::ServeUnary(const UnaryMethod<Request, Response>& method) {
  const auto start = [this, method](grpc::CallbackServerContext* context, const Request* request,
                                    Response* response) {
    return UnaryReactor::Start(method, environment_, context, request, response);
  };
  Serve(method.name,
        std::make_unique<grpc::internal::CallbackUnaryHandler<Request, Response>>(start));
}

}  // namespace packrat
