#include "server/unary_call.h"

#include <google/protobuf/message.h>
#include <grpcpp/server_context.h>

#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/no_memory.h"
#include "server/call_identity.h"
#include "server/grpc_status.h"

namespace packrat {

absl::Status CheckAnswer(const google::protobuf::Message& answer, const char* field) {
  // Minus some room for the frame around it.
  constexpr size_t kMaxAnswerBytes = (size_t{4} << 20) - 4096;
  const size_t bytes = answer.ByteSizeLong();
  if (bytes <= kMaxAnswerBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " would make an answer of ", bytes,
                                                 " bytes; at most ", kMaxAnswerBytes,
                                                 " (send it in pieces)"));
}

UnaryCall::UnaryCall(const char* name, CallEnvironment* environment,
                     grpc::CallbackServerContext* context, Work work)
    : environment_(environment), context_(context), work_(std::move(work)) {
  environment->answers.Enter(std::numeric_limits<int>::max());
  IdentifyCall(name, context, &record_);
}

UnaryCall* UnaryCall::Start(const char* name, CallEnvironment* environment,
                            grpc::CallbackServerContext* context, size_t request_bytes, Place place,
                            Work work) {
  auto* call = new UnaryCall(name, environment, context, std::move(work));
  call->Begin(request_bytes, place);
  return call;
}

void UnaryCall::Begin(size_t request_bytes, Place place) {
  auto tenant = AuthenticateCall(environment_->keys, *context_, &record_);
  absl::Status status = tenant.status();
  if (status.ok()) {
    tenant_ = *std::move(tenant);
    status = environment_->TakesCalls();
  }
  const ServedModel* served = environment_->served.load();
  StoredSessions* stored = place == Place::kMayAskStore ? environment_->stored.load() : nullptr;
  if (!status.ok()) {
    Answer(status);
  } else if (stored == nullptr && request_bytes <= WorkPool::kShortBytes) {
    Answer(DoWork(*served));
  } else {
    auto work = [this, served] {
      Answer(cancelled_.load() ? absl::CancelledError("cancelled before its turn")
                               : DoWork(*served));
    };
    status = stored != nullptr ? stored->Submit(request_bytes, work)
                               : environment_->texts->Submit(request_bytes, work);
    if (!status.ok()) Answer(status);
  }
}

absl::Status UnaryCall::DoWork(const ServedModel& served) {
  return UnlessNoMemory([&] { return work_({environment_, served, tenant_.get()}); });
}

void UnaryCall::Answer(const absl::Status& status) {
  record_.status = StatusName(status);
  record_.message = std::string(status.message());
  record_.total = SteadyNow() - started_;
  environment_->metrics->OnCall(record_.call, record_.status, record_.caller);
  environment_->log->Access(record_);
  AddRetryTrailers(status, context_);
  Finish(ToGrpcStatus(status));
}

void UnaryCall::OnDone() {
  environment_->answers.Leave();
  delete this;
}

}  // namespace packrat
