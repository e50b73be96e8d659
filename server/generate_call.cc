#include "server/generate_call.h"

#include <grpcpp/server_context.h>

#include <algorithm>
#include <chrono>
#include <cmath>
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

v1::CacheMiss WireMiss(CacheMiss miss) {
  switch (miss) {
    case CacheMiss::kOff:
      return v1::CACHE_MISS_OFF;
    case CacheMiss::kFirstUse:
      return v1::CACHE_MISS_FIRST_USE;
    case CacheMiss::kNoSnapshot:
      return v1::CACHE_MISS_NO_SNAPSHOT;
    case CacheMiss::kEvicted:
      return v1::CACHE_MISS_EVICTED;
    case CacheMiss::kNone:
      break;
  }
  return v1::CACHE_MISS_UNSPECIFIED;
}

}  // namespace

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

absl::Status GenerateCall::ApplyTenant(std::vector<Request>* requests) {
  const ApiTenant* tenant = use_->tenant();
  if (tenant == nullptr) return absl::OkStatus();
  const TenantLimits limits = tenant->limits();
  int64_t tokens = 0;
  for (Request& request : *requests) {
    if (!ask_.has_priority) {
      request.priority = std::clamp(0, limits.min_priority, limits.max_priority);
    } else if (request.priority < limits.min_priority || request.priority > limits.max_priority) {
      return absl::InvalidArgumentError(absl::StrCat("priority is ", request.priority,
                                                     "; range with this key [", limits.min_priority,
                                                     ", ", limits.max_priority, "]"));
    }
    request.tenant = tenant->name();
    request.tenant_weight = limits.weight;
    tokens += static_cast<int64_t>(request.prompt.size()) + request.stop.max_tokens;
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
  absl::StatusOr<std::vector<int32_t>> history = BeginTurn();
  if (!history.ok()) return history.status();
  const size_t from_session = history->size();
  absl::StatusOr<std::vector<Request>> requests =
      ask_.make(served.rules, RandomNumber(), *std::move(history));
  if (!requests.ok()) return requests.status();
  engine_ = served.engine;
  {
    MutexLock lock(&mutex_);
    for (const Request& request : *requests) record_.prompt_tokens += request.prompt.size();
    const absl::Status allowed = ApplyTenant(&*requests);
    if (!allowed.ok()) return allowed;
    if (turn_.has_value()) {
      const std::vector<int32_t>& prompt = requests->front().prompt;
      const absl::Status promised = turn_->Promise({prompt.begin() + from_session, prompt.end()},
                                                   requests->front().stop.max_tokens);
      if (!promised.ok()) return promised;
      const Request& request = requests->front();
      turn_space_ = {request.tenant, request.cache.salt, request.solver};
    }
    choices_.reserve(requests->size());
    for (Request& request : *requests) {
      request.id = environment_->next_engine_id++;
      request.deadline = deadline_;
      // The next turn goes on from the state at this one's end.
      request.cache.importance = turn_.has_value() ? 1 : 0;
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

void GenerateCall::CountInterval() {
  const SteadyTime now = std::chrono::steady_clock::now();
  if (last_message_ != SteadyTime()) environment_->metrics->OnMessage(now - last_message_);
  last_message_ = now;
}

void GenerateCall::TakeNews() {
  bool waits = false;
  for (Choice& choice : choices_) {
    Outbox::Update update;
    if (choice.outbox->Take(&update)) {
      choice.admitted = choice.admitted || update.admitted;
      admitted_ = admitted_ || update.admitted;
      choice.builder.Add(std::move(update));
    }
    waits = waits || (!choice.admitted && !choice.builder.finish().has_value());
  }
  if (!waits) use_->LeaveQueue();
}

GenerateCall::Choice* GenerateCall::NextMessage() {
  message_.Clear();
  const size_t first = next_choice_;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const size_t index = (first + i) % choices_.size();
    Choice& choice = choices_[index];
    if (choice.done) continue;
    const bool news = !broken_ && choice.builder.Build(&message_);
    const std::optional<packrat::Finish>& finish = choice.builder.finish();
    const bool last = finish.has_value() && (broken_ || choice.builder.done());
    if (!news && !last) continue;
    message_.set_choice(static_cast<int32_t>(index));
    next_choice_ = index + 1;
    if (!last) return &choice;
    choice.done = true;
    const absl::Status status = FinalStatus(*finish);
    if (status.ok()) {
      FillFinished(choice, message_.mutable_finished());
      return &choice;
    }
    if (status_.ok()) {
      status_ = status;
      CancelChoices();
    }
    // Tokens that came before a failure still go out, in a message of their own.
    if (news) return &choice;
  }
  return nullptr;
}

GenerateCall::Action GenerateCall::NextAction() {
  // What is new stays in the outboxes, as token ids, until the client has read what was written.
  if (pending_ || finished_) return Action::kNothing;
  TakeNews();
  const bool news = NextMessage() != nullptr;
  const bool last = std::all_of(choices_.begin(), choices_.end(),
                                [](const Choice& choice) { return choice.done; });
  if (!news && !last && (headers_sent_ || !admitted_)) return Action::kNothing;

  pending_ = true;
  pending_since_ = SteadyNow();
  headers_sent_ = true;
  if (message_.token_ids_size() > 0) CountInterval();
  if (turn_.has_value()) turn_->Append(message_.token_ids());
  if (!last) return news ? Action::kWrite : Action::kSendHeaders;
  if (EndTurn()) return news ? Action::kStoreAndWrite : Action::kStore;
  return LastAction(news);
}

GenerateCall::Action GenerateCall::LastAction(bool news) {
  if (news && !status_.ok()) return Action::kWrite;
  finished_ = true;
  return news ? Action::kWriteAndFinish : Action::kFinish;
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

void GenerateCall::FillFinished(const Choice& choice, v1::Finished* finished) const {
  const packrat::Finish& finish = *choice.builder.finish();
  const Usage& from = finish.usage;
  finished->set_reason(WireReason(finish.reason));
  finished->set_seed(choice.seed);
  finished->set_request_id(record_.id);
  v1::Usage* usage = finished->mutable_usage();
  usage->set_prompt_tokens(from.prompt_tokens);
  usage->set_cached_tokens(from.cached_tokens);
  usage->set_completion_tokens(from.completion_tokens);
  usage->set_solver_solves(from.solver.solves);
  usage->set_solver_steps(from.solver.steps);
  usage->set_solver_unconverged(from.solver.unconverged);
  usage->set_cache_miss(WireMiss(from.cache_miss));
  v1::Timings* timings = finished->mutable_timings();
  timings->set_queue_seconds(absl::ToDoubleSeconds(from.queue_time));
  timings->set_time_to_first_token_seconds(absl::ToDoubleSeconds(from.time_to_first_token));
  timings->set_total_seconds(absl::ToDoubleSeconds(from.total_time));
  const ResponseBuilder::Score& score = choice.builder.score();
  if (score.tokens == 0) return;
  v1::ScoreSum* sum = finished->mutable_score();
  sum->set_tokens(score.tokens);
  sum->set_logprob(score.logprob);
  sum->set_perplexity(std::exp(-score.logprob / score.tokens));
  sum->set_greedy(score.greedy);
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

void GenerateCall::Account() {
  int64_t used = 0;
  for (const Choice& choice : choices_) {
    if (!choice.builder.finish().has_value()) continue;  // The engine did not take it.
    const packrat::Finish& finish = *choice.builder.finish();
    const Usage& usage = finish.usage;
    if (choice.admitted) used += int64_t{usage.prompt_tokens} + usage.completion_tokens;
    record_.cached_tokens += usage.cached_tokens;
    record_.generated_tokens += usage.completion_tokens;
    record_.solver_steps += usage.solver.steps;
    if (&choice == &choices_.front()) {
      record_.queue = usage.queue_time;
      record_.first_token = usage.time_to_first_token;
    }
    const char* reason = status_.code() == absl::StatusCode::kDeadlineExceeded
                             ? FinishReasonName(FinishReason::kDeadline)
                             : FinishReasonName(finish.reason);
    record_.finish = reason;
    environment_->metrics->OnFinish(reason, usage, record_.caller);
  }
  if (use_.has_value()) use_->UsedTokens(used);
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
