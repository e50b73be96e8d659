#include "server/generation/transfer_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/bounds.h"
#include "runtime/no_memory.h"
#include "runtime/retry_after.h"
#include "runtime/saved_state.h"
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
    : environment_(environment),
      account_(name, environment, info),
      wait_(std::make_shared<StoreWait>(environment, account_.started(), info.deadline)) {}

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

absl::Status TransferCall::CheckLoad(const std::string& cache_salt,
                                     std::optional<absl::Duration> ttl) const {
  const absl::Status valid = SpaceOf(owner_, cache_salt, served().rules.solver).status();
  return valid.ok() && ttl.has_value() ? environment_->sessions->CheckTtl(*ttl) : valid;
}

void TransferCall::Fetch(const v1::SaveSessionRequest& request, Next next) {
  StoredSessions* const stored = environment_->stored.load();
  if (stored == nullptr) return next(absl::OkStatus());
  auto space =
      SpaceOf(owner_, request.cache_salt(), MakeSolver(request.solver(), served().rules.solver));
  if (!space.ok()) return next(space.status());
  auto work = [stored, wait = wait_.get(), owner = owner_, session = request.session(),
               space = *std::move(space)] {
    return stored->Fetch(owner, session, space, [wait] { return wait->gone(); });
  };
  wait_->Start(request.ByteSizeLong(), std::move(work), std::move(next));
}

absl::StatusOr<v1::SavedSession> TransferCall::Pack(const v1::SaveSessionRequest& request) {
  if (cancelled()) return absl::CancelledError("cancelled before its turn");
  const std::string& handle = request.session();
  auto space =
      SpaceOf(owner_, request.cache_salt(), MakeSolver(request.solver(), served().rules.solver));
  if (!space.ok()) return space.status();
  SessionTransfer* const transfer = served().transfer;
  const auto info = environment_->sessions->Get(owner_, handle, SteadyNow());
  if (!info.ok()) return info.status();
  space->solver = MakeSolver(request.solver(), info->solver);
  const int64_t text_bytes = MostHeaderBytes(info->tokens);
  const auto state_bytes = static_cast<int64_t>(
      SavedPartBytes(transfer->model().layout.ForDial(info->dials.last), info->tokens));
  const int64_t piece_bytes = std::min(state_bytes, transfer->link().piece_bytes);
  // A text that leaves no room for a piece goes alone.
  const bool fits = text_bytes + piece_bytes <= environment_->transfer_bytes->limit();
  const absl::Status held = Hold(text_bytes + (fits ? piece_bytes : 0));
  if (!held.ok()) return held;
  const std::optional<StateSpace> from = fits ? *space : std::optional<StateSpace>();
  auto packed = transfer->Pack(owner_, handle, from, SteadyNow(), [this] { return cancelled(); });
  if (!packed.ok()) return packed.status();
  if (cancelled()) return absl::CancelledError("the client has gone");
  absl::StatusOr<std::string> first = packed->state.Next();
  if (!first.ok()) {  // Nothing has been told yet.
    packed = transfer->Pack(owner_, handle, std::nullopt, SteadyNow());
    if (!packed.ok()) return packed.status();
    first = std::string();
  }
  left_ = packed->bytes();
  sending_ = std::move(packed->header);
  reader_ = std::move(packed->state);
  v1::SavedSession saved;
  saved.set_bytes(left_);
  saved.set_tokens(packed->info.tokens);
  saved.set_state_tokens(reader_.position());
  sending_ += *first;  // So that what is small is one message.
  return saved;
}

std::optional<std::string> TransferCall::NextBytes() {
  if (sent_ == sending_.size() && left_ > 0) return std::nullopt;
  std::string bytes = sending_.substr(sent_, kSavedMessageBytes);
  sent_ += bytes.size();
  left_ -= static_cast<int64_t>(bytes.size());
  return bytes;
}

absl::Status TransferCall::Fill() {
  if (cancelled()) return absl::CancelledError("the client has gone");
  sending_ = std::string();
  sent_ = 0;
  absl::StatusOr<std::string> piece = reader_.Next();
  if (!piece.ok()) return piece.status();
  sending_ = *std::move(piece);
  return absl::OkStatus();
}

SessionInput& TransferCall::input() {
  if (!input_.has_value()) input_.emplace(served().transfer);
  return *input_;
}

absl::Status TransferCall::MakeRoom(size_t bytes) {
  if (bytes <= room_) return absl::OkStatus();
  const absl::Status held = Hold(static_cast<int64_t>(bytes - room_));
  if (held.ok()) room_ = bytes;
  return held;
}

absl::Status TransferCall::TakeBytes(absl::string_view data) {
  const absl::Status held = MakeRoom(input().held() + data.size());
  if (!held.ok()) return held;
  // What could not be loaded is not read to its end.
  const absl::Status taken = input().Take(data);
  return taken.ok() ? MakeRoom(input().wanted()) : taken;
}

absl::StatusOr<StateSpace> TransferCall::LoadHere(const std::string& cache_salt,
                                                  std::optional<absl::Duration> ttl,
                                                  v1::LoadSessionResponse* response) {
  if (cancelled()) return absl::CancelledError("cancelled before its turn");
  auto loaded = served().transfer->Load(owner_, &input(), cache_salt, ttl,
                                        std::max<uint64_t>(1, RandomNumber()), SteadyNow());
  if (!loaded.ok()) return loaded.status();
  response->set_state_tokens(loaded->state_tokens);
  response->set_state_dropped(loaded->state_dropped);
  FillSession(loaded->info, served(), response->mutable_session());
  return StateSpace{owner_.tenant, cache_salt, loaded->solver};
}

void TransferCall::Load(const std::string& cache_salt, std::optional<absl::Duration> ttl,
                        v1::LoadSessionResponse* response, const Next& next) {
  StateSpace space;
  const absl::Status loaded = UnlessNoMemory([&] {
    auto found = LoadHere(cache_salt, ttl, response);
    if (!found.ok()) return found.status();
    space = *std::move(found);
    return absl::OkStatus();
  });
  StoredSessions* const stored = environment_->stored.load();
  if (!loaded.ok() || stored == nullptr) return next(loaded);
  // It is here in any case, and /metrics counts what was not stored.
  auto work = [stored, owner = owner_, session = response->session().session(), space] {
    stored->Put(owner, session, space).IgnoreError();
    return absl::OkStatus();
  };
  wait_->Start(/*bytes=*/0, std::move(work), [stored, next](const absl::Status& status) {
    const bool refused = absl::IsResourceExhausted(status);
    if (refused) stored->CountNotStored();
    next(refused ? absl::OkStatus() : status);
  });
}

void TransferCall::WaitForClient(bool waits) {
  MutexLock lock(&mutex_);
  const bool waited = waits_since_ < absl::InfiniteFuture();
  if (waits != waited) waits_since_ = waits ? SteadyNow() : absl::InfiniteFuture();
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
  input_.reset();
  sending_ = std::string();
  environment_->transfer_bytes->Give(std::exchange(held_, 0));
  account_.End(status_);
}

}  // namespace packrat
