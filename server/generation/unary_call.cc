#include "server/generation/unary_call.h"

#include <google/protobuf/message.h>

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/no_memory.h"

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

UnaryCall::UnaryCall(const char* name, CallEnvironment* environment, const CallInfo& info,
                     size_t request_bytes, bool may_ask_store, Work work, Answer answer)
    : environment_(environment),
      request_bytes_(request_bytes),
      may_ask_store_(may_ask_store),
      work_(std::move(work)),
      answer_(std::move(answer)),
      account_(name, environment, info) {
  environment->answers.Enter(std::numeric_limits<int>::max());
}

UnaryCall::~UnaryCall() { environment_->answers.Leave(); }

void UnaryCall::Start() {
  const std::shared_ptr<UnaryCall> call = shared_from_this();
  absl::Status status = account_.Enter();
  StoredSessions* const stored = may_ask_store_ ? environment_->stored.load() : nullptr;
  if (!status.ok()) {
    Finish(status);
  } else if (stored == nullptr && request_bytes_ <= WorkPool::kShortBytes) {
    Finish(DoWork());
  } else {
    const auto work = [call] {
      call->Finish(call->cancelled_.load() ? absl::CancelledError("cancelled before its turn")
                                           : call->DoWork());
    };
    status = stored != nullptr ? stored->Submit(request_bytes_, work)
                               : environment_->texts->Submit(request_bytes_, work);
    if (!status.ok()) Finish(status);
  }
}

absl::Status UnaryCall::DoWork() {
  const ServedModel& served = *environment_->served.load();
  return UnlessNoMemory([&] { return work_({environment_, served, account_.tenant()}); });
}

void UnaryCall::Finish(const absl::Status& status) {
  account_.End(status);
  // The answer may hold what holds this call.
  std::exchange(answer_, nullptr)(status);
}

}  // namespace packrat
