#include "server/inference_service.h"

#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/no_memory.h"
#include "runtime/steady_clock.h"
#include "server/call_identity.h"
#include "server/generate_call.h"
#include "server/grpc/message_first.h"
#include "server/grpc_status.h"
#include "server/model_info.h"

namespace packrat {
namespace {

// What gRPC's clients take by default, less some room for the frame around it: an answer that they
// would drop is refused with words instead.
constexpr size_t kMaxAnswerBytes = (size_t{4} << 20) - 4096;

absl::Status CheckAnswer(const google::protobuf::Message& answer, const char* field) {
  const size_t bytes = answer.ByteSizeLong();
  if (bytes <= kMaxAnswerBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " would make an answer of ", bytes,
                                                 " bytes; at most ", kMaxAnswerBytes,
                                                 " (send it in pieces)"));
}

// A call with one answer: identity, readiness, the log and the metrics. Owned by itself until gRPC
// is done with it.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  using Work = std::function<absl::Status(const ServedModel&)>;

  UnaryCall(const char* call, CallEnvironment* environment, grpc::CallbackServerContext* context,
            Work work)
      : environment_(environment), context_(context), work_(std::move(work)) {
    environment->answers.Enter(std::numeric_limits<int>::max());
    IdentifyCall(call, context, &record_);
  }

  // Does the work here if the request is short, else in the pool. The call may be over, and this
  // object gone, when it returns.
  void Start(size_t request_bytes) {
    absl::Status status = AuthenticateCall(environment_->keys, *context_, &record_).status();
    if (status.ok()) status = environment_->TakesCalls();
    const ServedModel* served = environment_->served.load();
    if (!status.ok()) {
      Answer(status);
    } else if (request_bytes <= WorkPool::kShortBytes) {
      Answer(DoWork(*served));
    } else {
      status = environment_->texts->Submit(request_bytes, [this, served] {
        Answer(cancelled_.load() ? absl::CancelledError("cancelled before its turn")
                                 : DoWork(*served));
      });
      if (!status.ok()) Answer(status);
    }
  }

  void OnCancel() override { cancelled_.store(true); }
  void OnDone() override {
    environment_->answers.Leave();
    delete this;
  }

 private:
  absl::Status DoWork(const ServedModel& served) {
    return UnlessNoMemory([&] { return work_(served); });
  }

  void Answer(const absl::Status& status) {
    record_.status = StatusName(status);
    record_.message = std::string(status.message());
    record_.total = SteadyNow() - started_;
    environment_->metrics->OnCall(record_.call, record_.status, record_.caller);
    environment_->log->Access(record_);
    AddRetryTrailers(status, context_);
    Finish(ToGrpcStatus(status));
  }

  CallEnvironment* const environment_;
  grpc::CallbackServerContext* const context_;
  const Work work_;
  const absl::Time started_ = SteadyNow();
  AccessRecord record_;
  std::atomic<bool> cancelled_{false};
};

grpc::ServerUnaryReactor* StartCall(const char* name, CallEnvironment* environment,
                                    grpc::CallbackServerContext* context, size_t request_bytes,
                                    UnaryCall::Work work) {
  auto* call = new UnaryCall(name, environment, context, std::move(work));
  call->Start(request_bytes);
  return call;
}

}  // namespace

InferenceService::InferenceService(CallEnvironment* environment, UnreadCalls* unread)
    : environment_(environment) {
  const auto* service = v1::GenerateRequest::descriptor()->file()->FindServiceByName("Inference");
  const auto handle = [&](const char* method, auto handler) {
    MarkMethodStreamed(service->FindMethodByName(method)->index(),
                       MessageFirst(std::move(handler), unread).release());
  };
  using grpc::internal::CallbackServerStreamingHandler;
  using grpc::internal::CallbackUnaryHandler;
  handle(
      "Generate",
      std::make_unique<CallbackServerStreamingHandler<v1::GenerateRequest, v1::GenerateResponse>>(
          [this](auto* context, auto* request) { return Generate(context, request); }));
  handle("Score",
         std::make_unique<CallbackServerStreamingHandler<v1::ScoreRequest, v1::GenerateResponse>>(
             [this](auto* context, auto* request) { return Score(context, request); }));
  handle("Tokenize",
         std::make_unique<CallbackUnaryHandler<v1::TokenizeRequest, v1::TokenizeResponse>>(
             [this](auto*... call) { return Tokenize(call...); }));
  handle("Detokenize",
         std::make_unique<CallbackUnaryHandler<v1::DetokenizeRequest, v1::DetokenizeResponse>>(
             [this](auto*... call) { return Detokenize(call...); }));
  handle("GetModelInfo",
         std::make_unique<CallbackUnaryHandler<v1::GetModelInfoRequest, v1::GetModelInfoResponse>>(
             [this](auto*... call) { return GetModelInfo(call...); }));
}

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  // gRPC keeps the request until the call is done.
  return GenerateCall::Start(environment_, context,
                             {"Generate", request->ByteSizeLong(), request->has_priority(),
                              [request](const RequestRules& rules, uint64_t seed) {
                                return MakeRequests(*request, rules, seed);
                              }});
}

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Score(
    grpc::CallbackServerContext* context, const v1::ScoreRequest* request) {
  return GenerateCall::Start(
      environment_, context,
      {"Score", request->ByteSizeLong(), request->has_priority(),
       [request](const RequestRules& rules, uint64_t) { return MakeRequests(*request, rules); }});
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return StartCall("Tokenize", environment_, context, request->ByteSizeLong(),
                   [request, response](const ServedModel& served) {
                     auto ids = TokenizeChecked(*request, served.rules);
                     if (!ids.ok()) return ids.status();
                     for (int32_t id : *ids) {
                       response->add_token_ids(id);
                       response->add_pieces(served.tokenizer->PieceText(id));
                     }
                     return CheckAnswer(*response, "text");
                   });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return StartCall("Detokenize", environment_, context, request->ByteSizeLong(),
                   [request, response](const ServedModel& served) {
                     auto text = DetokenizeChecked(*request, served.rules);
                     if (!text.ok()) return text.status();
                     response->set_text(*std::move(text));
                     return CheckAnswer(*response, "token_ids");
                   });
}

grpc::ServerUnaryReactor* InferenceService::GetModelInfo(grpc::CallbackServerContext* context,
                                                         const v1::GetModelInfoRequest* request,
                                                         v1::GetModelInfoResponse* response) {
  return StartCall("GetModelInfo", environment_, context, 0,
                   [environment = environment_, response](const ServedModel& served) {
                     FillModelInfo(served, *environment->options, response);
                     return absl::OkStatus();
                   });
}

}  // namespace packrat
