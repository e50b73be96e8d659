#include "server/grpc/load_call.h"

#include <utility>

#include "runtime/no_memory.h"
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
  // Who sends messages with nothing in them stands still.
  if (!ok || !message_.data().empty()) WaitForClient(false);
  absl::Status status;
  if (ok) {
    status = UnlessNoMemory([this] { return TakePiece(); });
    if (status.ok() && !full()) return ReadNext();
    if (status.ok()) {
      status = Submit([call = self_] {
        const absl::Status placed = UnlessNoMemory([&] {
          call->Place();
          return absl::OkStatus();
        });
        placed.ok() ? call->ReadNext() : call->Finish(call->Result(placed));
      });
      if (status.ok()) return;
    }
  } else if (cancelled()) {
    status = absl::CancelledError("the client left before its last message");
  } else {
    status = Submit([call = self_] {
      call->Load(call->cache_salt_, call->ttl_, call->response_,
                 [call](const absl::Status& loaded) { call->Finish(call->Result(loaded)); });
    });
    if (status.ok()) return;
  }
  Finish(Result(status));
}

absl::Status LoadCall::TakePiece() {
  if (!std::exchange(begun_, true)) {
    cache_salt_ = message_.cache_salt();
    if (message_.has_ttl_seconds()) ttl_ = TtlOf(message_.ttl_seconds());
    const absl::Status valid = CheckLoad(cache_salt_, ttl_);
    if (!valid.ok()) return valid;
  }
  return TakeBytes(message_.data());
}

void LoadCall::OnDone() {
  const std::shared_ptr<LoadCall> self = std::move(self_);
  End();
}

}  // namespace packrat
