#include "server/generation/generation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/no_memory.h"
#include "runtime/steady_clock.h"
#include "server/generation/request_rules.h"

namespace packrat {
namespace {

// As bytes of text: a grammar, however short, is compiled by a thread of the pool.
size_t WorkOf(const v1::GenerateRequest& request) {
  const bool constrained =
      request.has_grammar() || request.has_regex() || request.has_json_schema();
  return request.ByteSizeLong() + (constrained ? WorkPool::kShortBytes : 0);
}

}  // namespace

std::shared_ptr<Generation> Generation::Generate(CallEnvironment* environment,
                                                 const v1::GenerateRequest* request,
                                                 const CallInfo& info, Caller* caller) {
  const auto make = [request](const RequestRules& rules, uint64_t seed,
                              std::vector<int32_t> history) {
    return MakeRequests(*request, rules, seed, std::move(history));
  };
  Ask ask = {"Generate",
             WorkOf(*request),
             request->has_priority(),
             request->has_session() ? &request->session() : nullptr,
             /*takes_turn=*/true,
             &request->cache_salt(),
             !request->rat_plus_dial().empty(),
             &request->solver(),
             make};
  return std::shared_ptr<Generation>(new Generation(environment, std::move(ask), info, caller));
}

std::shared_ptr<Generation> Generation::Score(CallEnvironment* environment,
                                              const v1::ScoreRequest* request, const CallInfo& info,
                                              Caller* caller) {
  const auto make = [request](const RequestRules& rules, uint64_t /*seed*/,
                              std::vector<int32_t> history) {
    return MakeRequests(*request, rules, std::move(history));
  };
  Ask ask = {"Score",
             request->ByteSizeLong(),
             request->has_priority(),
             request->has_session() ? &request->session() : nullptr,
             /*takes_turn=*/false,
             &request->cache_salt(),
             !request->rat_plus_dial().empty(),
             &request->solver(),
             make};
  return std::shared_ptr<Generation>(new Generation(environment, std::move(ask), info, caller));
}

Generation::Generation(CallEnvironment* environment, Ask ask, const CallInfo& info, Caller* caller)
    : environment_(environment),
      caller_(caller),
      deadline_(info.deadline),
      whole_(info.whole),
      together_(info.together),
      follows_(info.follows),
      ask_(std::move(ask)),
      account_(ask_.call, environment, info),
      labels_(account_.labels()),
      wait_(std::make_shared<StoreWait>(environment, account_.started(), deadline_)) {}

void Generation::Start() {
  const std::shared_ptr<Generation> call = shared_from_this();
  environment_->writer->Watch(call);
  absl::Status status = Enter();
  if (!status.ok()) {
    Refuse(status);
  } else if (environment_->stored.load() != nullptr && ask_.session != nullptr) {
    FetchAndBegin();
  } else if (ask_.bytes <= WorkPool::kShortBytes) {
    Begin();
  } else {
    status = environment_->prompts->Submit(ask_.bytes, [call] { call->Begin(); });
    if (!status.ok()) Refuse(status);
  }
}

absl::Status Generation::Enter() {
  MutexLock lock(&mutex_);
  absl::Status status = account_.EnterStream();
  if (!status.ok() || together_ == 0) return status;
  const absl::Time now = SteadyNow();
  status = environment_->served.load()->engine->HasRoom(together_, now);
  const int max_queue = environment_->options->engine.max_queue;
  return status.ok() ? account_.use()->MayEnterQueue(together_, max_queue, now) : status;
}

// Of a session what is new; and what was computed before, where it is to be computed again.
int64_t Generation::Chargeable(const Request& request) const {
  const auto prompt = static_cast<int>(request.prompt.size());
  const int free =
      request.cache.use ? std::min(from_session_, request.score_from.value_or(prompt)) : 0;
  return int64_t{prompt} - free + request.stop.max_tokens;
}

absl::Status Generation::ApplyTenant(std::vector<Request>* requests) {
  const ApiTenant* tenant = account_.tenant();
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
  const auto places = static_cast<int>(requests->size());
  if (together_ > 0 || follows_) {
    account_.use()->FollowInQueue(places, tokens, SteadyNow());
    return absl::OkStatus();
  }
  return account_.use()->EnterQueue(places, tokens, environment_->options->engine.max_queue,
                                    SteadyNow());
}

void Generation::Begin() {
  const absl::Status status = UnlessNoMemory([&] { return Submit(); });
  if (!status.ok()) return Refuse(status);
  caller_->Taken();
  {
    MutexLock lock(&mutex_);
    pending_ = false;
  }
  Pump();
}

absl::Status Generation::Submit() {
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
  if (from_session > 0) {
    const absl::Status dial =
        GoOnLike(history, static_cast<int32_t>(from_session), served.model->config(), &*requests);
    if (!dial.ok()) return dial;
  }
  engine_ = served.engine;
  {
    MutexLock lock(&mutex_);
    from_session_ = static_cast<int>(from_session);
    for (const Request& request : *requests) {
      account_.record()->prompt_tokens += static_cast<int64_t>(request.prompt.size());
    }
    const absl::Status allowed = ApplyTenant(&*requests);
    if (!allowed.ok()) return allowed;
    if (turn_.has_value()) {
      const std::vector<int32_t>& prompt = requests->front().prompt;
      const absl::Status promised = turn_->Promise(
          {prompt.begin() + from_session, prompt.end()}, requests->front().stop.max_tokens,
          requests->front().dials, requests->front().solver);
      if (!promised.ok()) return promised;
      turn_space_ = SpaceOf(requests->front());
    }
    choices_.reserve(requests->size());
    for (Request& request : *requests) {
      request.id = environment_->next_engine_id++;
      request.deadline = deadline_;
      // The next turn goes on from the state at this one's end.
      request.cache.importance = turn_.has_value() ? 1 : 0;
      if (turn_.has_value()) request.cache.ends = turn_->ends();
      request.cache.origin = history.origin;
      request.outbox = std::make_shared<Outbox>(
          [writer = environment_->writer, weak = std::weak_ptr<Stream>(weak_from_this())] {
            writer->Notify(weak);
          });
      choices_.push_back({request.id, request.sampling.seed, request.outbox,
                          ResponseBuilder(served.tokenizer, request.text.skip_special_tokens,
                                          request.text.continues_text, request.prompt)});
    }
  }
  {
    MutexLock lock(&mutex_);
    // Nothing is said before Begin() has said that the engine has them.
    pending_ = true;
    pending_since_ = absl::InfiniteFuture();
  }
  const absl::Status status = engine_->Submit(*std::move(requests), SteadyNow());
  if (!status.ok()) return status;
  MutexLock lock(&mutex_);
  submitted_ = true;
  if (cancelled_) CancelChoices();
  return absl::OkStatus();
}

void Generation::Cancelled() {
  // The engine closes the outboxes with kCancelled, and that ends the call.
  {
    MutexLock lock(&mutex_);
    cancelled_ = true;
    if (submitted_) CancelChoices();
  }
  wait_->Leave();
}

void Generation::CancelChoices() {
  for (const Choice& choice : choices_) {
    if (!choice.builder.finish().has_value()) engine_->Cancel(choice.id);
  }
}

void Generation::Refuse(const absl::Status& status) {
  {
    MutexLock lock(&mutex_);
    turn_.reset();
    status_ = status;
    account_.record()->finish = "refused";
    finished_ = true;
    pending_ = true;
    pending_since_ = SteadyNow();
  }
  caller_->Finish(status);
}

void Generation::Pump() {
  Action action = Action::kNothing;
  {
    MutexLock lock(&mutex_);
    if (!choices_.empty()) action = NextAction();
  }
  Do(action);
}

void Generation::Do(Action action) {
  // Outside the lock: the front may do the whole write in this call. While pending_ is set nobody
  // else starts an operation, so message_ and status_ are ours.
  switch (action) {
    case Action::kNothing:
      break;
    case Action::kStore:
    case Action::kStoreAndWrite:
      StoreTurn(action == Action::kStoreAndWrite);
      break;
    case Action::kSendHeaders:
      caller_->SendHeaders();
      break;
    case Action::kWrite:
      caller_->Write(message_);
      break;
    case Action::kWriteAndFinish:
      caller_->WriteAndFinish(message_);
      break;
    case Action::kFinish:
      caller_->Finish(status_);
      break;
  }
}

void Generation::WriteDone(bool ok) {
  // The operation that Pump() starts may be the last: then Done() runs beside the rest of it.
  const std::shared_ptr<Generation> alive = shared_from_this();
  bool just_broken = false;
  {
    MutexLock lock(&mutex_);
    if (finished_) return;
    pending_ = false;
    if (ok) CountDelivery();
    Settle();
    just_broken = !ok && !broken_;
    broken_ = broken_ || !ok;
  }
  if (just_broken) Cancelled();
  Pump();
}

void Generation::CheckReader(absl::Time now) {
  MutexLock lock(&mutex_);
  const absl::Duration limit = environment_->options->stream_idle_timeout;
  if (!pending_ || stalled_ || now - pending_since_ < limit) return;
  stalled_ = true;
  // Under the lock, which Done() takes too: the caller lives as long.
  caller_->Abort();
}

void Generation::Done(bool gone) {
  MutexLock lock(&mutex_);
  pending_ = false;
  if (!gone && !stalled_) CountDelivery();
  Settle();
  CountUse();
  if (stalled_) {
    status_ = absl::CancelledError("the client did not read for stream_idle_timeout");
  } else if (status_.ok() && gone) {
    status_ = absl::CancelledError("the client left before it had everything");
  }
  account_.End(status_);
}

}  // namespace packrat
