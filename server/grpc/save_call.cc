#include "server/grpc/save_call.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "runtime/no_memory.h"
#include "runtime/steady_clock.h"

namespace packrat {
namespace {

constexpr size_t kPieceBytes = size_t{512} << 10;

}  // namespace

SaveCall::SaveCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
                   const v1::SaveSessionRequest* request)
    : TransferCall("SaveSession", environment, context), request_(request) {}

SaveCall* SaveCall::Start(CallEnvironment* environment, grpc::CallbackServerContext* context,
                          const v1::SaveSessionRequest* request) {
  std::shared_ptr<SaveCall> call(new SaveCall(environment, context, request));
  call->self_ = call;
  environment->writer->Watch(call);
  absl::Status status = call->Enter();
  if (status.ok()) {
    status = call->Submit([call] {
      const absl::Status packed = UnlessNoMemory([&] { return call->Pack(); });
      if (packed.ok()) {
        call->WriteNext();
      } else {
        call->Finish(call->Result(packed));
      }
    });
  }
  if (!status.ok()) call->Finish(call->Result(status));
  return call.get();
}

absl::Status SaveCall::Pack() {
  if (cancelled()) return absl::CancelledError("cancelled before its turn");
  const std::string& handle = request_->session();
  const auto space = SpaceOf(owner(), request_->cache_salt(),
                             MakeSolver(request_->solver(), served().rules.solver));
  if (!space.ok()) return space.status();
  if (StoredSessions* const stored = environment()->stored.load(); stored != nullptr) {
    const absl::Status fetched = stored->Fetch(owner(), handle, *space);
    if (!fetched.ok()) return fetched;
  }
  SessionTransfer* const transfer = served().transfer;
  const auto info = environment()->sessions->Get(owner(), handle, SteadyNow());
  if (!info.ok()) return info.status();
  // A state that such calls could never hold is left out.
  const int64_t text_bytes = MostHeaderBytes(info->tokens);
  const int64_t room = environment()->transfer_bytes->limit() - text_bytes;
  const auto state_bytes =
      static_cast<int64_t>(SavedPartBytes(transfer->model().layout, info->tokens));
  const absl::Status held = Hold(text_bytes + (state_bytes <= room ? state_bytes : 0));
  if (!held.ok()) return held;
  const std::optional<StateSpace> from = state_bytes <= room ? *space : std::optional<StateSpace>();
  auto packed = transfer->Pack(owner(), handle, from, state_bytes, SteadyNow());
  if (!packed.ok()) return packed.status();
  packed_ = *std::move(packed);
  v1::SavedSession* const saved = message_.mutable_saved();
  saved->set_bytes(static_cast<int64_t>(packed_.header.size() + packed_.parts.size()));
  saved->set_tokens(packed_.info.tokens);
  saved->set_state_tokens(packed_.state_tokens);
  return absl::OkStatus();
}

void SaveCall::WriteNext() {
  std::string* const data = message_.mutable_data();
  data->clear();
  for (const std::string* from : {&packed_.header, &packed_.parts}) {
    const size_t before = from == &packed_.header ? 0 : packed_.header.size();
    const size_t at = sent_ - before;
    if (sent_ < before || at >= from->size()) continue;
    const size_t bytes = std::min(from->size() - at, kPieceBytes - data->size());
    data->append(*from, at, bytes);
    sent_ += bytes;
  }
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
