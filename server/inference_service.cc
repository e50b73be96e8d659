#include "server/inference_service.h"

#include <functional>
#include <string>

#include "absl/time/clock.h"
#include "server/call_identity.h"
#include "server/generate_call.h"
#include "server/grpc_status.h"
#include "server/model_info.h"

namespace packrat {
namespace {

// The common part of the calls that answer at once: identity, readiness, the log and the metrics.
grpc::ServerUnaryReactor* Answer(
    const char* call, CallEnvironment* environment, grpc::CallbackServerContext* context,
    const std::function<absl::Status(const ServedModel&, AccessRecord*)>& work) {
  const absl::Time started = absl::Now();
  AccessRecord record;
  IdentifyCall(call, context, &environment->numbers, &record);
  const ServedModel* served = environment->served.load();
  absl::Status status = absl::UnavailableError("the model is still being loaded");
  if (served != nullptr) status = work(*served, &record);
  record.status = StatusName(status);
  record.message = std::string(status.message());
  record.total = absl::Now() - started;
  environment->metrics->OnCall(record.call, record.status, record.caller);
  environment->log->Access(record);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  return GenerateCall::Start(environment_, context, *request);
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return Answer("Tokenize", environment_, context, [&](const ServedModel& served, AccessRecord*) {
    auto ids = TokenizeChecked(*request, served.rules);
    if (!ids.ok()) return ids.status();
    for (int32_t id : *ids) {
      response->add_token_ids(id);
      response->add_pieces(served.tokenizer->PieceText(id));
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return Answer("Detokenize", environment_, context, [&](const ServedModel& served, AccessRecord*) {
    auto text = DetokenizeChecked(*request, served.rules);
    if (!text.ok()) return text.status();
    response->set_text(*std::move(text));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* InferenceService::GetModelInfo(grpc::CallbackServerContext* context,
                                                         const v1::GetModelInfoRequest* request,
                                                         v1::GetModelInfoResponse* response) {
  return Answer("GetModelInfo", environment_, context,
                [&](const ServedModel& served, AccessRecord*) {
                  FillModelInfo(served, *environment_->options, response);
                  return absl::OkStatus();
                });
}

}  // namespace packrat
