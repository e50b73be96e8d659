#include "server/grpc/load_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/no_memory.h"
#include "runtime/session_transfer.h"
#include "server/generation/session_calls.h"

namespace packrat {

LoadCall::LoadCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
                   v1::LoadSessionResponse* response)
    : GrpcTransfer("LoadSession", environment, context), response_(response) {}

LoadCall* LoadCall::Start(CallEnvironment* environment, grpc::CallbackServerContext* context,
                          v1::LoadSessionResponse* response) {
  std::shared_ptr<LoadCall> call(new LoadCall(environment, context, response));
  call->self_ = call;
  environment->writer->Watch(call);
  const absl::Status status = call->Enter();
  if (status.ok()) {
    call->ReadNext();
  } else {
    call->Finish(call->Result(status));
  }
  return call.get();
}

void LoadCall::ReadNext() {
  WaitForClient(true);
  StartRead(&message_);
}

void LoadCall::OnReadDone(bool ok) {
  WaitForClient(false);
  absl::Status status;
  if (ok) {
    status = UnlessNoMemory([this] { return TakePiece(); });
    if (status.ok()) return ReadNext();
  } else if (cancelled()) {
    status = absl::CancelledError("the client left before its last message");
  } else {
    status = Submit([call = self_] {
      call->Finish(call->Result(UnlessNoMemory([&] {
        return call->Load(std::move(call->bytes_), call->cache_salt_, call->ttl_, call->response_);
      })));
    });
    if (status.ok()) return;
  }
  Finish(Result(status));
}

absl::Status LoadCall::TakePiece() {
  if (!std::exchange(begun_, true)) {
    cache_salt_ = message_.cache_salt();
    if (message_.has_ttl_seconds()) ttl_ = TtlOf(message_.ttl_seconds());
    const absl::Status valid = CheckLoad(cache_salt_);
    if (!valid.ok()) return valid;
  }
  absl::Status status = MakeRoom(bytes_.size() + message_.data().size());
  if (!status.ok()) return status;
  bytes_ += message_.data();
  // What could not be loaded is not read to its end.
  if (!size_.exact) {
    const auto size = SizeOfSavedState(bytes_, served().transfer->model());
    if (!size.ok()) return size.status();
    size_ = *size;
  }
  if (bytes_.size() > size_.bytes) {
    return absl::DataLossError(
        absl::StrCat("the saved state is damaged: it has more than ", size_.bytes, " bytes"));
  }
  return MakeRoom(size_.bytes);
}

absl::Status LoadCall::MakeRoom(size_t bytes) {
  if (bytes <= room_) return absl::OkStatus();
  const absl::Status held = Hold(static_cast<int64_t>(bytes - room_));
  if (!held.ok()) return held;
  room_ = bytes;
  bytes_.reserve(bytes);
  return absl::OkStatus();
}

void LoadCall::OnDone() {
  const std::shared_ptr<LoadCall> self = std::move(self_);
  bytes_ = std::string();
  End();
}

}  // namespace packrat
