#include "server/inference_service.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "server/generate_call.h"
#include "server/grpc/message_first.h"
#include "server/load_call.h"
#include "server/model_info.h"
#include "server/save_call.h"
#include "server/session_calls.h"

namespace packrat {
namespace {

absl::Status Tokenize(const CallContext& call, const v1::TokenizeRequest& request,
                      v1::TokenizeResponse* response) {
  auto ids = TokenizeChecked(request, call.served.rules);
  if (!ids.ok()) return ids.status();
  for (int32_t id : *ids) {
    response->add_token_ids(id);
    response->add_pieces(call.served.tokenizer->PieceText(id));
  }
  return CheckAnswer(*response, "text");
}

absl::Status Detokenize(const CallContext& call, const v1::DetokenizeRequest& request,
                        v1::DetokenizeResponse* response) {
  auto text = DetokenizeChecked(request, call.served.rules);
  if (!text.ok()) return text.status();
  response->set_text(*std::move(text));
  return CheckAnswer(*response, "token_ids");
}

absl::Status GetModelInfo(const CallContext& call, const v1::GetModelInfoRequest&,
                          v1::GetModelInfoResponse* response) {
  FillModelInfo(call.served, *call.environment->options, response);
  return absl::OkStatus();
}

}  // namespace

InferenceService::InferenceService(CallEnvironment* environment, UnreadCalls* unread)
    : environment_(environment), unread_(unread) {
  using grpc::internal::CallbackServerStreamingHandler;
  // gRPC keeps the request until the call is done.
  Serve(
      "Generate",
      std::make_unique<CallbackServerStreamingHandler<v1::GenerateRequest, v1::GenerateResponse>>(
          [environment](auto* context, auto* request) {
            return GenerateCall::Start(
                environment, context,
                {"Generate", request->ByteSizeLong(), request->has_priority(),
                 request->has_session() ? &request->session() : nullptr, /*takes_turn=*/true,
                 &request->cache_salt(),
                 [request](const RequestRules& rules, uint64_t seed, std::vector<int32_t> history) {
                   return MakeRequests(*request, rules, seed, std::move(history));
                 }});
          }));
  Serve("Score",
        std::make_unique<CallbackServerStreamingHandler<v1::ScoreRequest, v1::GenerateResponse>>(
            [environment](auto* context, auto* request) {
              return GenerateCall::Start(
                  environment, context,
                  {"Score", request->ByteSizeLong(), request->has_priority(),
                   request->has_session() ? &request->session() : nullptr, /*takes_turn=*/false,
                   &request->cache_salt(),
                   [request](const RequestRules& rules, uint64_t, std::vector<int32_t> history) {
                     return MakeRequests(*request, rules, std::move(history));
                   }});
            }));
  Serve("SaveSession",
        std::make_unique<
            CallbackServerStreamingHandler<v1::SaveSessionRequest, v1::SaveSessionResponse>>(
            [environment](auto* context, auto* request) {
              return SaveCall::Start(environment, context, request);
            }));
  // The class has members of these names.
  Serve("Tokenize", &packrat::Tokenize);
  Serve("Detokenize", &packrat::Detokenize);
  Serve("GetModelInfo", &packrat::GetModelInfo);
  Serve("CreateSession", &packrat::CreateSession, UnaryCall::Place::kMayAskStore);
  Serve("ListSessions", &packrat::ListSessions);
  Serve("GetSession", &packrat::GetSession, UnaryCall::Place::kMayAskStore);
  Serve("ForkSession", &packrat::ForkSession, UnaryCall::Place::kMayAskStore);
  Serve("RewindSession", &packrat::RewindSession, UnaryCall::Place::kMayAskStore);
  Serve("DeleteSession", &packrat::DeleteSession, UnaryCall::Place::kMayAskStore);
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

template <typename Request, typename Response>
void InferenceService::Serve(const char* method,
                             absl::Status (*work)(const CallContext&, const Request&, Response*),
                             UnaryCall::Place place) {
  // gRPC keeps request and response until the call is done.
  Serve(method, std::make_unique<grpc::internal::CallbackUnaryHandler<Request, Response>>(
                    [this, method, work, place](grpc::CallbackServerContext* context,
                                                const Request* request, Response* response) {
                      return UnaryCall::Start(method, environment_, context,
                                              request->ByteSizeLong(), place,
                                              [work, request, response](const CallContext& call) {
                                                return work(call, *request, response);
                                              });
                    }));
}

}  // namespace packrat
