#include "server/generate_call.h"

#include <grpcpp/server_context.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/no_memory.h"
#include "runtime/steady_clock.h"
#include "server/call_deadline.h"
#include "server/call_identity.h"
#include "server/grpc_status.h"

namespace packrat {

GenerateCall::GenerateCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
                           Ask ask)
    : environment_(environment),
      context_(context),
      started_(SteadyNow()),
      deadline_(SteadyDeadline(context->raw_deadline())),
      ask_(std::move(ask)) {
  IdentifyCall(ask_.call, context, &record_);
}

GenerateCall* GenerateCall::Start(CallEnvironment* environment,
                                  grpc::CallbackServerContext* context, Ask ask) {
  std::shared_ptr<GenerateCall> call(new GenerateCall(environment, context, std::move(ask)));
  call->self_ = call;
  environment->writer->Watch(call);
  absl::Status status = call->Enter();
  const size_t bytes = call->ask_.bytes;
  StoredSessions* const stored = environment->stored.load();
  if (!status.ok()) {
    call->Refuse(status);
  } else if (stored != nullptr && call->ask_.session != nullptr) {
    status = stored->Submit(bytes, [call, stored] { call->FetchAndBegin(stored); });
    if (!status.ok()) call->Refuse(status);
  } else if (bytes <= WorkPool::kShortBytes) {
    call->Begin();
  } else {
    status = environment->prompts->Submit(bytes, [call] { call->Begin(); });
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

// Of a session what is new; and what was computed before, where it is to be computed again.
int64_t GenerateCall::Chargeable(const Request& request) const {
  const auto prompt = static_cast<int>(request.prompt.size());
  const int free =
      request.cache.use ? std::min(from_session_, request.score_from.value_or(prompt)) : 0;
  return int64_t{prompt} - free + request.stop.max_tokens;
}

absl::Status GenerateCall::ApplyTenant(std::vector<Request>* requests) {
  const ApiTenant* tenant = use_->tenant();
  if (tenant == nullptr) return absl::OkStatus();
  const TenantLimits limits = tenant->limits();
  int64_t tokens = 0;
  for (Request& request : *requests) {
    tokens += Chargeable(request);
    if (!ask_.has_priority) {
      request.priority = std::clamp(0, limits.min_priority, limits.max_priority);
    } else if (request.priority < limits.min_priority || request.priority > limits.max_priority) {
      return absl::InvalidArgumentError(absl::StrCat("priority is ", request.priority,
                                                     "; range with this key [", limits.min_priority,
                                                     ", ", limits.max_priority, "]"));
    }
    request.tenant = tenant->name();
    request.tenant_weight = limits.weight;
  }
  return use_->EnterQueue(static_cast<int>(requests->size()), tokens,
                          environment_->options->engine.max_queue, SteadyNow());
}

void GenerateCall::Begin() {
  const absl::Status status = UnlessNoMemory([&] { return Submit(); });
  if (!status.ok()) Refuse(status);
}

absl::Status GenerateCall::Submit() {
  {
    MutexLock lock(&mutex_);
    if (cancelled_) return CancelledStatus();
  }
  const ServedModel& served = *environment_->served.load();
  SessionContent history;
  const absl::Status found = ReadSession(&history);
  if (!found.ok()) return found;
  const size_t from_session = history.text.size();
  absl::StatusOr<std::vector<Request>> requests =
      ask_.make(served.rules, RandomNumber(), std::move(history.text));
  if (!requests.ok()) return requests.status();
  engine_ = served.engine;
  {
    MutexLock lock(&mutex_);
    from_session_ = static_cast<int>(from_session);
    for (const Request& request : *requests) record_.prompt_tokens += request.prompt.size();
    const absl::Status allowed = ApplyTenant(&*requests);
    if (!allowed.ok()) return allowed;
    if (turn_.has_value()) {
      const std::vector<int32_t>& prompt = requests->front().prompt;
      const absl::Status promised = turn_->Promise({prompt.begin() + from_session, prompt.end()},
                                                   requests->front().stop.max_tokens);
      if (!promised.ok()) return promised;
      turn_space_ = SpaceOf(requests->front());
    }
    choices_.reserve(requests->size());
    for (Request& request : *requests) {
      request.id = environment_->next_engine_id++;
      request.deadline = deadline_;
      // The next turn goes on from the state at this one's end.
      request.cache.importance = turn_.has_value() ? 1 : 0;
      request.cache.origin = history.origin;
      request.outbox =
          std::make_shared<Outbox>([writer = environment_->writer,
                                    weak = std::weak_ptr<Stream>(self_)] { writer->Notify(weak); });
      choices_.push_back({request.id, request.sampling.seed, request.outbox,
                          ResponseBuilder(served.tokenizer, request.text.skip_special_tokens,
                                          request.text.continues_text, request.prompt)});
    }
  }
  const absl::Status status = engine_->Submit(*std::move(requests), SteadyNow());
  if (!status.ok()) return status;
  MutexLock lock(&mutex_);
  submitted_ = true;
  if (cancelled_) CancelChoices();
  return absl::OkStatus();
}

void GenerateCall::CancelRequests() {
  MutexLock lock(&mutex_);
  cancelled_ = true;
  if (submitted_) CancelChoices();
}

void GenerateCall::CancelChoices() {
  for (const Choice& choice : choices_) {
    if (!choice.builder.finish().has_value()) engine_->Cancel(choice.id);
  }
}

void GenerateCall::Refuse(const absl::Status& status) {
  {
    MutexLock lock(&mutex_);
    turn_.reset();
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
  Do(action);
}

void GenerateCall::Do(Action action) {
  // Outside the lock: gRPC may do the whole write in this call. While pending_ is set nobody else
  // starts an operation, so this object stays alive and message_ and status_ are ours.
  switch (action) {
    case Action::kNothing:
      break;
    case Action::kStore:
    case Action::kStoreAndWrite:
      StoreTurn(action == Action::kStoreAndWrite);
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
  if (just_broken) CancelRequests();
  Pump();
}

void GenerateCall::OnSendInitialMetadataDone(bool ok) { OperationDone(ok); }

void GenerateCall::OnWriteDone(bool ok) { OperationDone(ok); }

void GenerateCall::OnCancel() {
  // The engine closes the outboxes with kCancelled, and that ends the call.
  CancelRequests();
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
  Account();
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
