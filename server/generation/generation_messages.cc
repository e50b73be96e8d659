// What a call has to say: from the outboxes of its requests to messages, to its status and to the
// books.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>

#include "runtime/steady_clock.h"
#include "server/generation/call_deadline.h"
#include "server/generation/generation.h"

namespace packrat {
namespace {

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

void Generation::CountInterval() {
  const SteadyTime now = std::chrono::steady_clock::now();
  if (last_message_ != SteadyTime()) environment_->metrics->OnMessage(now - last_message_);
  last_message_ = now;
  goes_since_ = std::exchange(waits_since_, absl::InfiniteFuture());
}

void Generation::CountDelivery() {
  const absl::Time since = std::exchange(goes_since_, absl::InfiniteFuture());
  if (since != absl::InfiniteFuture()) environment_->metrics->OnDelivery(SteadyNow() - since);
}

void Generation::Settle() {
  for (const Choice& choice : choices_) choice.outbox->Settle();
}

void Generation::TakeNews() {
  bool waits = false;
  for (Choice& choice : choices_) {
    Outbox::Update update;
    if (choice.outbox->Take(&update)) {
      choice.admitted = choice.admitted || update.admitted;
      admitted_ = admitted_ || update.admitted;
      if (!update.tokens.empty()) waits_since_ = std::min(waits_since_, update.since);
      choice.builder.Add(std::move(update));
    }
    waits = waits || (!choice.admitted && !choice.builder.finish().has_value());
  }
  if (!waits) account_.use()->LeaveQueue();
}

Generation::Choice* Generation::NextMessage() {
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

Generation::Action Generation::NextAction() {
  // What is new stays in the outboxes, as token ids, until the client has read what was written.
  if (pending_ || finished_) return Action::kNothing;
  TakeNews();
  const bool news = NextMessage() != nullptr;
  const bool last = std::all_of(choices_.begin(), choices_.end(),
                                [](const Choice& choice) { return choice.done; });
  if (!news && !last && (headers_sent_ || !admitted_)) {
    Settle();
    return Action::kNothing;
  }

  pending_ = true;
  pending_since_ = SteadyNow();
  headers_sent_ = true;
  if (message_.token_ids_size() > 0) CountInterval();
  if (turn_.has_value()) turn_->Append(message_.token_ids());
  if (!last) return news ? Action::kWrite : Action::kSendHeaders;
  if (!EndTurn()) return LastAction(news);
  pending_since_ = absl::InfiniteFuture();
  return news ? Action::kStoreAndWrite : Action::kStore;
}

Generation::Action Generation::LastAction(bool news) {
  if (news && !status_.ok()) return Action::kWrite;
  finished_ = true;
  return news ? Action::kWriteAndFinish : Action::kFinish;
}

absl::Status Generation::CancelledStatus() const {
  return packrat::CancelledStatus(account_.started(), deadline_, SteadyNow());
}

absl::Status Generation::FinalStatus(const packrat::Finish& finish) const {
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

void Generation::FillFinished(const Choice& choice, v1::Finished* finished) const {
  const packrat::Finish& finish = *choice.builder.finish();
  const Usage& from = finish.usage;
  finished->set_reason(WireReason(finish.reason));
  finished->set_seed(choice.seed);
  finished->set_request_id(labels_.request_id);
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
  timings->set_parked_seconds(absl::ToDoubleSeconds(from.parked_time));
  const ResponseBuilder::Score& score = choice.builder.score();
  if (score.tokens == 0) return;
  v1::ScoreSum* sum = finished->mutable_score();
  sum->set_tokens(score.tokens);
  sum->set_logprob(score.logprob);
  sum->set_perplexity(std::exp(-score.logprob / score.tokens));
  sum->set_greedy(score.greedy);
}

void Generation::CountUse() {
  AccessRecord& record = *account_.record();
  int64_t used = 0;
  for (const Choice& choice : choices_) {
    if (!choice.builder.finish().has_value()) continue;  // The engine did not take it.
    const packrat::Finish& finish = *choice.builder.finish();
    const Usage& usage = finish.usage;
    if (choice.admitted) {
      // The last token of a session's text has never been computed.
      const int again = std::max(0, from_session_ - 1 - usage.cached_tokens);
      used += int64_t{usage.prompt_tokens} - from_session_ + again + usage.completion_tokens;
    }
    record.cached_tokens += usage.cached_tokens;
    record.generated_tokens += usage.completion_tokens;
    record.solver_steps += usage.solver.steps;
    if (&choice == &choices_.front()) {
      record.queue = usage.queue_time;
      record.first_token = usage.time_to_first_token;
    }
    const char* reason = status_.code() == absl::StatusCode::kDeadlineExceeded
                             ? FinishReasonName(FinishReason::kDeadline)
                             : FinishReasonName(finish.reason);
    record.finish = reason;
    environment_->metrics->OnFinish(reason, usage, record.caller);
  }
  if (account_.use() != nullptr) account_.use()->UsedTokens(used);
}

}  // namespace packrat
