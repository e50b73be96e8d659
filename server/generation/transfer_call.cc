#include "server/generation/transfer_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/bounds.h"
#include "runtime/retry_after.h"
#include "runtime/steady_clock.h"
#include "server/generation/session_calls.h"

namespace packrat {
namespace {

absl::StatusOr<StateSpace> SpaceOf(const SessionOwner& owner, const std::string& cache_salt,
                                   const SolverOptions& solver) {
  for (const absl::Status& status :
       {bounds::kCacheSalt.Check("cache_salt", static_cast<double>(cache_salt.size())),
        bounds::kCgTolerance.Check(bounds::kCgTolerance.field, solver.cg_tolerance),
        bounds::kCgMaxSteps.Check(bounds::kCgMaxSteps.field, solver.cg_max_steps)}) {
    if (!status.ok()) return status;
  }
  return StateSpace{owner.tenant, cache_salt, solver};
}

}  // namespace

TransferCall::TransferCall(const char* name, CallEnvironment* environment, const CallInfo& info)
    : environment_(environment), account_(name, environment, info) {}

absl::Status TransferCall::Enter() {
  const absl::Status status = account_.EnterStream();
  owner_ = OwnerOf(account_.tenant());
  return status;
}

absl::Status TransferCall::Submit(std::function<void()> work) {
  return environment_->transfers->Submit(/*bytes=*/0, std::move(work));
}

absl::Status TransferCall::Hold(int64_t bytes) {
  ByteBudget* const budget = environment_->transfer_bytes;
  if (budget->Take(bytes)) {
    held_ += bytes;
    return absl::OkStatus();
  }
  const absl::Status status = absl::ResourceExhaustedError(absl::StrCat(
      "this session takes ", held_ + bytes, " bytes, and all that are being saved and ",
      "loaded may hold ", budget->limit(), " together"));
  if (held_ + bytes > budget->limit()) return status;
  return WithRetryAfter(status, absl::Seconds(1));
}

absl::Status TransferCall::CheckLoad(const std::string& cache_salt) const {
  return SpaceOf(owner_, cache_salt, served().rules.solver).status();
}

absl::StatusOr<PackedSession> TransferCall::Pack(const v1::SaveSessionRequest& request) {
  if (cancelled()) return absl::CancelledError("cancelled before its turn");
  const std::string& handle = request.session();
  const auto space =
      SpaceOf(owner_, request.cache_salt(), MakeSolver(request.solver(), served().rules.solver));
  if (!space.ok()) return space.status();
  if (StoredSessions* const stored = environment_->stored.load(); stored != nullptr) {
    const absl::Status fetched = stored->Fetch(owner_, handle, *space);
    if (!fetched.ok()) return fetched;
  }
  SessionTransfer* const transfer = served().transfer;
  const auto info = environment_->sessions->Get(owner_, handle, SteadyNow());
  if (!info.ok()) return info.status();
  // A state that such calls could never hold is left out.
  const int64_t text_bytes = MostHeaderBytes(info->tokens);
  const int64_t room = environment_->transfer_bytes->limit() - text_bytes;
  const auto state_bytes = static_cast<int64_t>(
      SavedPartBytes(transfer->model().layout.ForDial(info->dials.last), info->tokens));
  const absl::Status held = Hold(text_bytes + (state_bytes <= room ? state_bytes : 0));
  if (!held.ok()) return held;
  const std::optional<StateSpace> from = state_bytes <= room ? *space : std::optional<StateSpace>();
  return transfer->Pack(owner_, handle, from, state_bytes, SteadyNow());
}

absl::Status TransferCall::MakeRoom(size_t bytes) {
  if (bytes <= room_) return absl::OkStatus();
  const absl::Status held = Hold(static_cast<int64_t>(bytes - room_));
  if (!held.ok()) return held;
  room_ = bytes;
  taken_.reserve(bytes);
  return absl::OkStatus();
}

absl::Status TransferCall::TakeBytes(absl::string_view data) {
  const absl::Status held = MakeRoom(taken_.size() + data.size());
  if (!held.ok()) return held;
  taken_.append(data.data(), data.size());
  // What could not be loaded is not read to its end.
  if (!size_.exact) {
    const auto size = SizeOfSavedState(taken_, served().transfer->model());
    if (!size.ok()) return size.status();
    size_ = *size;
  }
  if (taken_.size() > size_.bytes) {
    return absl::DataLossError(
        absl::StrCat("the saved state is damaged: it has more than ", size_.bytes, " bytes"));
  }
  return MakeRoom(size_.bytes);
}

absl::Status TransferCall::Load(const std::string& cache_salt, std::optional<absl::Duration> ttl,
                                v1::LoadSessionResponse* response) {
  if (cancelled()) return absl::CancelledError("cancelled before its turn");
  auto loaded = served().transfer->Load(owner_, std::move(taken_), cache_salt, ttl,
                                        std::max<uint64_t>(1, RandomNumber()), SteadyNow());
  if (!loaded.ok()) return loaded.status();
  response->set_state_tokens(loaded->state_tokens);
  response->set_state_dropped(loaded->state_dropped);
  FillSession(loaded->info, served().rules.limits.dials, response->mutable_session());
  StoredSessions* const stored = environment_->stored.load();
  if (stored == nullptr) return absl::OkStatus();
  const StateSpace space = {owner_.tenant, cache_salt, loaded->solver};
  // It is here in any case, and /metrics counts what was not stored.
  stored->Put(owner_, loaded->info.handle, space).IgnoreError();
  return absl::OkStatus();
}

void TransferCall::WaitForClient(bool waits) {
  MutexLock lock(&mutex_);
  waits_since_ = waits ? SteadyNow() : absl::InfiniteFuture();
}

void TransferCall::CheckReader(absl::Time now) {
  MutexLock lock(&mutex_);
  if (over_ || stalled_ || now - waits_since_ < environment_->options->stream_idle_timeout) return;
  stalled_ = true;
  Drop();
}

void TransferCall::End() {
  {
    MutexLock lock(&mutex_);
    over_ = true;
    if (stalled_) {
      status_ = absl::CancelledError("the client stood still for stream_idle_timeout");
    } else if (status_.ok() && cancelled()) {
      status_ = absl::CancelledError("the client left before it had everything");
    }
  }
  taken_ = std::string();
  environment_->transfer_bytes->Give(std::exchange(held_, 0));
  account_.End(status_);
}

v1::SavedSession Describe(const PackedSession& packed) {
  v1::SavedSession saved;
  saved.set_bytes(static_cast<int64_t>(packed.header.size() + packed.parts.size()));
  saved.set_tokens(packed.info.tokens);
  saved.set_state_tokens(packed.state_tokens);
  return saved;
}

std::string PieceOf(const PackedSession& packed, size_t at, size_t most) {
  std::string piece;
  for (const std::string* from : {&packed.header, &packed.parts}) {
    if (at >= from->size()) {
      at -= from->size();
      continue;
    }
    piece.append(*from, at, most - piece.size());
    at = 0;
  }
  return piece;
}

}  // namespace packrat
