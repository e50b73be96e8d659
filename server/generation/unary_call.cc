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
                     size_t request_bytes, Work work, std::function<void()> take, Answer answer)
    : environment_(environment),
      request_bytes_(request_bytes),
      work_(std::move(work)),
      take_(std::move(take)),
      answer_(std::move(answer)),
      account_(name, environment, info),
      wait_(std::make_shared<StoreWait>(environment, account_.started(), info.deadline)) {
  environment->answers.Enter(std::numeric_limits<int>::max());
}

UnaryCall::~UnaryCall() { environment_->answers.Leave(); }

void UnaryCall::Start() {
  const std::shared_ptr<UnaryCall> call = shared_from_this();
  absl::Status status = account_.Enter();
  if (!status.ok()) {
    Finish(status);
  } else if (take_ != nullptr && environment_->stored.load() != nullptr) {
    WaitForStore();
  } else if (request_bytes_ <= WorkPool::kShortBytes) {
    Finish(DoWork());
  } else {
    const auto work = [call] {
      call->Finish(call->wait_->gone() ? absl::CancelledError("cancelled before its turn")
                                       : call->DoWork());
    };
    status = environment_->texts->Submit(request_bytes_, work);
    if (!status.ok()) Finish(status);
  }
}

void UnaryCall::WaitForStore() {
  // Of this call it has nothing but what is its own.
  auto work = [work = work_, environment = environment_, tenant = account_.use()->shared_tenant(),
               wait = wait_.get()] {
    const ServedModel& served = *environment->served.load();
    return work({environment, served, tenant.get(), [wait] { return wait->gone(); }});
  };
  wait_->Start(request_bytes_, std::move(work),
               [call = shared_from_this()](const absl::Status& status) {
                 if (status.ok()) call->take_();
                 call->Finish(status);
               });
}

absl::Status UnaryCall::DoWork() {
  const ServedModel& served = *environment_->served.load();
  return UnlessNoMemory([&] {
    const absl::Status status =
        work_({environment_, served, account_.tenant(), [this] { return wait_->gone(); }});
    if (status.ok() && take_ != nullptr) take_();
    return status;
  });
}

void UnaryCall::Finish(const absl::Status& status) {
  account_.End(status);
  // The answer may hold what holds this call.
  std::exchange(answer_, nullptr)(status);
}

}  // namespace packrat
