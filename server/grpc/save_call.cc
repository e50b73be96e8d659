#include "server/grpc/save_call.h"

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
  absl::Status status = call->Enter();
  if (status.ok()) status = call->Submit([call] { call->PackAndWrite(); });
  if (!status.ok()) call->Finish(call->Result(status));
  return call.get();
}

void SaveCall::PackAndWrite() {
  const absl::Status packed = UnlessNoMemory([this] {
    auto session = Pack(*request_);
    if (!session.ok()) return session.status();
    packed_ = *std::move(session);
    return absl::OkStatus();
  });
  if (!packed.ok()) return Finish(Result(packed));
  *message_.mutable_saved() = Describe(packed_);
  WriteNext();
}

void SaveCall::WriteNext() {
  message_.set_data(PieceOf(packed_, sent_, kSavedPieceBytes));
  sent_ += message_.data().size();
  WaitForClient(true);
  StartWrite(&message_);
}

void SaveCall::OnWriteDone(bool ok) {
  WaitForClient(false);
  message_.clear_saved();
  if (!ok) {
    Finish(Result(absl::CancelledError("the client has gone")));
  } else if (sent_ == packed_.header.size() + packed_.parts.size()) {
    Finish(Result(absl::OkStatus()));
  } else {
    WriteNext();
  }
}

void SaveCall::OnDone() {
  const std::shared_ptr<SaveCall> self = std::move(self_);
  packed_ = PackedSession();
  End();
}

}  // namespace packrat
