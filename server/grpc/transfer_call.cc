#include "server/grpc/transfer_call.h"

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "models/bounds.h"
#include "runtime/retry_after.h"
#include "runtime/steady_clock.h"
#include "server/generation/session_calls.h"
#include "server/grpc/call_info.h"
#include "server/grpc/grpc_status.h"

namespace packrat {

TransferCall::TransferCall(const char* name, CallEnvironment* environment,
                           grpc::CallbackServerContext* context)
    : environment_(environment),
      context_(context),
      account_(name, environment, CallInfoOf(*context)) {
  AddLabels(account_.labels(), context);
}

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

void TransferCall::WaitForClient(bool waits) {
  MutexLock lock(&mutex_);
  waits_since_ = waits ? SteadyNow() : absl::InfiniteFuture();
}

void TransferCall::CheckReader(absl::Time now) {
  MutexLock lock(&mutex_);
  if (over_ || stalled_ || now - waits_since_ < environment_->options->stream_idle_timeout) return;
  stalled_ = true;
  // Under the lock, which End() takes too: the context lives as long.
  context_->TryCancel();
}

bool TransferCall::cancelled() const { return context_->IsCancelled(); }

grpc::Status TransferCall::Result(const absl::Status& status) {
  status_ = status;
  return ToGrpcStatus(status, context_);
}

void TransferCall::End() {
  {
    MutexLock lock(&mutex_);
    over_ = true;
    if (stalled_) {
      status_ = absl::CancelledError("the client stood still for stream_idle_timeout");
    } else if (status_.ok() && context_->IsCancelled()) {
      status_ = absl::CancelledError("the client left before it had everything");
    }
  }
  environment_->transfer_bytes->Give(std::exchange(held_, 0));
  account_.End(status_);
}

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

}  // namespace packrat
