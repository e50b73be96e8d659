#include "server/generate_call.h"

#include <grpcpp/server_context.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/no_memory.h"
#include "runtime/steady_clock.h"
#include "server/call_deadline.h"
#include "server/call_identity.h"
#include "server/grpc_status.h"

namespace packrat {
namespace {

absl::Status DeadlineStatus() {
  return absl::DeadlineExceededError("the deadline passed before the end of the text");
}

v1::FinishReason WireReason(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kEos:
      return v1::FINISH_REASON_EOS;
    case FinishReason::kStopId:
      return v1::FINISH_REASON_STOP_ID;
    case FinishReason::kStopString:
      return v1::FINISH_REASON_STOP_STRING;
    case FinishReason::kCancelled:
    case FinishReason::kDeadline:
    case FinishReason::kError:
      break;  // Told by the status of the call.
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

}  // namespace

GenerateCall::GenerateCall(CallEnvironment* environment, grpc::CallbackServerContext* context)
    : environment_(environment),
      context_(context),
      started_(SteadyNow()),
      deadline_(SteadyDeadline(context->raw_deadline())),
      engine_id_(environment->next_engine_id++),
      seed_(RandomNumber()) {
  IdentifyCall("Generate", context, &record_);
}

GenerateCall* GenerateCall::Start(CallEnvironment* environment,
                                  grpc::CallbackServerContext* context,
                                  const v1::GenerateRequest& request) {
  std::shared_ptr<GenerateCall> call(new GenerateCall(environment, context));
  call->self_ = call;
  environment->writer->Watch(call);
  absl::Status status = call->Enter();
  const size_t bytes = request.ByteSizeLong();
  if (!status.ok()) {
    call->Refuse(status);
  } else if (bytes <= WorkPool::kShortBytes) {
    call->Begin(request);
  } else {
    // gRPC keeps the request until the call is done.
    status = environment->prompts->Submit(bytes, [call, &request] { call->Begin(request); });
    if (!status.ok()) call->Refuse(status);
  }
  return call.get();
}

absl::Status GenerateCall::Enter() {
  MutexLock lock(&mutex_);
  auto tenant = AuthenticateCall(environment_->keys, *context_, &record_);
  if (!tenant.ok()) return tenant.status();
  absl::Status status = environment_->TakesCalls();
  if (!status.ok()) return status;
  const int limit = environment_->options->max_streams;
  use_.emplace(*std::move(tenant));
  status = use_->EnterStream(limit);
  if (!status.ok()) return status;
  counted_ = environment_->streams.Enter(limit);
  if (counted_) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("all ", limit, " streams are in use"));
}

absl::Status GenerateCall::ApplyTenant(const v1::GenerateRequest& wire, Request* request) {
  const ApiTenant* tenant = use_->tenant();
  if (tenant == nullptr) return absl::OkStatus();
  const TenantLimits limits = tenant->limits();
  if (!wire.has_priority()) {
    request->priority = std::clamp(0, limits.min_priority, limits.max_priority);
  } else if (request->priority < limits.min_priority || request->priority > limits.max_priority) {
    return absl::InvalidArgumentError(absl::StrCat("priority is ", request->priority,
                                                   "; range with this key [", limits.min_priority,
                                                   ", ", limits.max_priority, "]"));
  }
  request->tenant = tenant->name();
  request->tenant_weight = limits.weight;
  const int64_t tokens = static_cast<int64_t>(request->prompt.size()) + request->stop.max_tokens;
  return use_->EnterQueue(tokens, environment_->options->engine.max_queue, SteadyNow());
}

void GenerateCall::Begin(const v1::GenerateRequest& request) {
  const absl::Status status = UnlessNoMemory([&] { return Submit(request); });
  if (!status.ok()) Refuse(status);
}

absl::Status GenerateCall::Submit(const v1::GenerateRequest& wire) {
  {
    MutexLock lock(&mutex_);
    if (cancelled_) return CancelledStatus();
  }
  const ServedModel& served = *environment_->served.load();
  absl::StatusOr<Request> request = MakeRequest(wire, served.rules, seed_);
  if (!request.ok()) return request.status();
  engine_ = served.engine;
  outbox_ =
      std::make_shared<Outbox>([writer = environment_->writer,
                                weak = std::weak_ptr<Stream>(self_)] { writer->Notify(weak); });
  request->id = engine_id_;
  request->deadline = deadline_;
  request->outbox = outbox_;
  {
    MutexLock lock(&mutex_);
    record_.prompt_tokens = request->prompt.size();
    const absl::Status allowed = ApplyTenant(wire, &*request);
    if (!allowed.ok()) return allowed;
    seed_ = request->sampling.seed;
    builder_.emplace(served.tokenizer, request->text.skip_special_tokens,
                     request->text.continues_text, request->prompt);
  }
  const absl::Status status = engine_->Submit(*std::move(request), SteadyNow());
  if (!status.ok()) return status;
  MutexLock lock(&mutex_);
  submitted_ = true;
  if (cancelled_) engine_->Cancel(engine_id_);
  return absl::OkStatus();
}

void GenerateCall::CancelRequest() {
  MutexLock lock(&mutex_);
  cancelled_ = true;
  if (submitted_) engine_->Cancel(engine_id_);
}

void GenerateCall::Refuse(const absl::Status& status) {
  {
    MutexLock lock(&mutex_);
    status_ = status;
    record_.finish = "refused";
    finished_ = true;
    pending_ = true;
    pending_since_ = SteadyNow();
  }
  AddRetryTrailers(status, context_);
  Finish(ToGrpcStatus(status));
}

void GenerateCall::Pump() {
  Action action;
  {
    MutexLock lock(&mutex_);
    action = NextAction();
  }
  // Outside the lock: gRPC may do the whole write in this call. While pending_ is set nobody else
  // starts an operation, so this object stays alive and message_ and status_ are ours.
  switch (action) {
    case Action::kNothing:
      break;
    case Action::kSendHeaders:
      StartSendInitialMetadata();
      break;
    case Action::kWrite:
      StartWrite(&message_);
      break;
    case Action::kWriteAndFinish:
      StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
      break;
    case Action::kFinish:
      Finish(ToGrpcStatus(status_));
      break;
  }
}

void GenerateCall::CountInterval() {
  const SteadyTime now = std::chrono::steady_clock::now();
  if (last_message_ != SteadyTime()) environment_->metrics->OnMessage(now - last_message_);
  last_message_ = now;
}

GenerateCall::Action GenerateCall::NextAction() {
  // What is new stays in the outbox, as token ids, until the client has read what was written.
  if (pending_ || finished_) return Action::kNothing;
  Outbox::Update update;
  if (outbox_->Take(&update)) {
    admitted_ = admitted_ || update.admitted;
    if (admitted_) use_->LeaveQueue();
    builder_->Add(std::move(update));
  }
  const std::optional<packrat::Finish>& finish = builder_->finish();
  message_.Clear();
  const bool news = !broken_ && builder_->Build(&message_);
  const bool last = finish.has_value() && (broken_ || builder_->done());
  if (!news && !last && (headers_sent_ || !admitted_)) return Action::kNothing;

  pending_ = true;
  pending_since_ = SteadyNow();
  headers_sent_ = true;
  if (message_.token_ids_size() > 0) CountInterval();
  if (!news && !last) return Action::kSendHeaders;
  if (!last) return Action::kWrite;
  status_ = FinalStatus(*finish);
  // Tokens that came before a failure still go out, in a message of their own.
  if (!status_.ok() && news) return Action::kWrite;
  finished_ = true;
  if (!status_.ok()) return Action::kFinish;
  FillFinished(*finish, message_.mutable_finished());
  return Action::kWriteAndFinish;
}

absl::Status GenerateCall::CancelledStatus() const {
  // gRPC cancels a call whose deadline has passed.
  if (CancelledByDeadline(started_, deadline_, SteadyNow())) return DeadlineStatus();
  return absl::CancelledError("cancelled by the client");
}

absl::Status GenerateCall::FinalStatus(const packrat::Finish& finish) const {
  switch (finish.reason) {
    case FinishReason::kCancelled:
      return CancelledStatus();
    case FinishReason::kDeadline:
      return DeadlineStatus();
    case FinishReason::kError:
      return finish.status;
    default:
      // The engine is content, but a client that has gone did not get it.
      return broken_ ? absl::CancelledError("the client has gone") : absl::OkStatus();
  }
}

void GenerateCall::FillFinished(const packrat::Finish& finish, v1::Finished* finished) const {
  const Usage& from = finish.usage;
  finished->set_reason(WireReason(finish.reason));
  finished->set_seed(seed_);
  finished->set_request_id(record_.id);
  v1::Usage* usage = finished->mutable_usage();
  usage->set_prompt_tokens(from.prompt_tokens);
  usage->set_cached_tokens(from.cached_tokens);
  usage->set_completion_tokens(from.completion_tokens);
  usage->set_solver_solves(from.solver.solves);
  usage->set_solver_steps(from.solver.steps);
  usage->set_solver_unconverged(from.solver.unconverged);
  v1::Timings* timings = finished->mutable_timings();
  timings->set_queue_seconds(absl::ToDoubleSeconds(from.queue_time));
  timings->set_time_to_first_token_seconds(absl::ToDoubleSeconds(from.time_to_first_token));
  timings->set_total_seconds(absl::ToDoubleSeconds(from.total_time));
}

void GenerateCall::OperationDone(bool ok) {
  // The operation that Pump() starts may be the last: then OnDone() runs beside the rest of it.
  const std::shared_ptr<GenerateCall> alive = self_;
  bool just_broken = false;
  {
    MutexLock lock(&mutex_);
    if (finished_) return;
    pending_ = false;
    just_broken = !ok && !broken_;
    broken_ = broken_ || !ok;
  }
  if (just_broken) CancelRequest();
  Pump();
}

void GenerateCall::OnSendInitialMetadataDone(bool ok) { OperationDone(ok); }

void GenerateCall::OnWriteDone(bool ok) { OperationDone(ok); }

void GenerateCall::OnCancel() {
  // The engine closes the outbox with kCancelled, and that ends the call.
  CancelRequest();
}

void GenerateCall::CheckReader(absl::Time now) {
  MutexLock lock(&mutex_);
  const absl::Duration limit = environment_->options->stream_idle_timeout;
  if (!pending_ || stalled_ || now - pending_since_ < limit) return;
  stalled_ = true;
  // Under the lock, which OnDone() takes too: the context lives as long.
  context_->TryCancel();
}

void GenerateCall::OnDone() {
  std::shared_ptr<GenerateCall> self = std::move(self_);
  MutexLock lock(&mutex_);
  pending_ = false;
  if (builder_.has_value() && builder_->finish().has_value()) {
    const packrat::Finish& finish = *builder_->finish();
    const Usage& usage = finish.usage;
    record_.cached_tokens = usage.cached_tokens;
    if (admitted_) use_->UsedTokens(int64_t{usage.prompt_tokens} + usage.completion_tokens);
    record_.generated_tokens = usage.completion_tokens;
    record_.solver_steps = usage.solver.steps;
    record_.queue = usage.queue_time;
    record_.first_token = usage.time_to_first_token;
    record_.finish = status_.code() == absl::StatusCode::kDeadlineExceeded
                         ? FinishReasonName(FinishReason::kDeadline)
                         : FinishReasonName(finish.reason);
    environment_->metrics->OnFinish(record_.finish, usage, record_.caller);
  }
  if (stalled_) {
    status_ = absl::CancelledError("the client did not read for stream_idle_timeout");
  } else if (status_.ok() && context_->IsCancelled()) {
    status_ = absl::CancelledError("the client left before it had everything");
  }
  record_.status = StatusName(status_);
  record_.message = std::string(status_.message());
  record_.total = SteadyNow() - started_;
  environment_->metrics->OnCall(record_.call, record_.status, record_.caller);
  environment_->log->Access(record_);
  use_.reset();
  if (counted_) environment_->streams.Leave();
}

}  // namespace packrat
