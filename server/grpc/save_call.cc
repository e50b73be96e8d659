#include "server/grpc/save_call.h"

#include <optional>
#include <string>
#include <utility>

#include "runtime/no_memory.h"

namespace packrat {

SaveCall::SaveCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
                   const v1::SaveSessionRequest* request)
    : GrpcTransfer("SaveSession", environment, context), request_(request) {}

SaveCall* SaveCall::Start(CallEnvironment* environment, grpc::CallbackServerContext* context,
                          const v1::SaveSessionRequest* request) {
  std::shared_ptr<SaveCall> call(new SaveCall(environment, context, request));
  call->self_ = call;
  environment->writer->Watch(call);
  const absl::Status status = call->Enter();
  if (!status.ok()) {
    call->Finish(call->Result(status));
    return call.get();
  }
  call->Fetch(*request, [call](absl::Status fetched) {
    if (fetched.ok()) fetched = call->Submit([call] { call->PackAndWrite(); });
    if (!fetched.ok()) call->Finish(call->Result(fetched));
  });
  return call.get();
}

void SaveCall::PackAndWrite() {
  const absl::Status packed = UnlessNoMemory([this] {
    auto saved = Pack(*request_);
    if (!saved.ok()) return saved.status();
    *message_.mutable_saved() = *std::move(saved);
    return absl::OkStatus();
  });
  if (!packed.ok()) return Finish(Result(packed));
  WriteNext();
}

void SaveCall::WriteNext() {
  std::optional<std::string> bytes;
  const absl::Status status = UnlessNoMemory([&]() -> absl::Status {
    bytes = NextBytes();
    if (!bytes.has_value()) return Submit([call = self_] { call->FillAndWrite(); });
    message_.set_data(*std::move(bytes));
    return absl::OkStatus();
  });
  if (!status.ok()) return Finish(Result(status));
  if (!bytes.has_value()) return;  // Once there are more.
  if (message_.data().empty()) return Finish(Result(absl::OkStatus()));
  WaitForClient(true);
  StartWrite(&message_);
}

void SaveCall::FillAndWrite() {
  const absl::Status filled = UnlessNoMemory([this] { return Fill(); });
  if (!filled.ok()) return Finish(Result(filled));
  WriteNext();
}

void SaveCall::OnWriteDone(bool ok) {
  WaitForClient(false);
  message_.clear_saved();
  if (!ok) return Finish(Result(absl::CancelledError("the client has gone")));
  WriteNext();
}

void SaveCall::OnDone() {
  const std::shared_ptr<SaveCall> self = std::move(self_);
  End();
}

}  // namespace packrat
