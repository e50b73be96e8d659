#include "runtime/outbox.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "runtime/steady_clock.h"

namespace packrat {

const char* CacheMissName(CacheMiss miss) {
  switch (miss) {
    case CacheMiss::kNone:
      return "none";
    case CacheMiss::kOff:
      return "off";
    case CacheMiss::kFirstUse:
      return "first_use";
    case CacheMiss::kNoSnapshot:
      return "no_snapshot";
    case CacheMiss::kEvicted:
      break;
  }
  return "evicted";
}

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength:
      return "length";
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kStopId:
      return "stop_id";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kError:
      break;
  }
  return "error";
}

bool Outbox::Take(Update* update) {
  MutexLock lock(&mutex_);
  outstanding_ = false;
  if (!dirty_) return false;
  dirty_ = false;
  // Copied, not swapped: the room that Reserve() made stays with the engine's side.
  update->admitted = pending_.admitted;
  update->tokens.assign(pending_.tokens.begin(), pending_.tokens.end());
  update->since = pending_.since;
  update->logprobs.clear();
  for (TokenLogprobs& logprobs : pending_.logprobs) {
    update->logprobs.push_back(std::move(logprobs));
  }
  update->scores.clear();
  update->scores.swap(pending_.scores);
  update->safe_text_bytes = pending_.safe_text_bytes;
  update->finish = pending_.finish;
  pending_.tokens.clear();
  pending_.logprobs.clear();
  return true;
}

void Outbox::Settle() {
  MutexLock lock(&mutex_);
  if (readers_ != nullptr) std::exchange(readers_, nullptr)->Settle(woken_at_);
  late_ = false;
}

void Outbox::Reserve(int max_tokens, bool logprobs) {
  const int unread = std::min(max_tokens, kReservedTokens);
  MutexLock lock(&mutex_);
  pending_.tokens.reserve(unread);
  if (logprobs) pending_.logprobs.reserve(unread);
}

void Outbox::Admit() {
  MutexLock lock(&mutex_);
  pending_.admitted = true;
  dirty_ = true;
}

void Outbox::Append(int32_t token, std::optional<TokenLogprobs> logprobs, size_t safe_text_bytes) {
  MutexLock lock(&mutex_);
  PACKRAT_CHECK(!pending_.finish.has_value(), "a token after the finish");
  // In this order: where there is no memory for one of them, no token is without its
  // log-probabilities.
  if (logprobs.has_value()) pending_.logprobs.push_back(*std::move(logprobs));
  if (pending_.tokens.empty()) pending_.since = SteadyNow();
  pending_.tokens.push_back(token);
  pending_.safe_text_bytes = safe_text_bytes;
  dirty_ = true;
}

void Outbox::AppendScore(TokenScore score) {
  MutexLock lock(&mutex_);
  PACKRAT_CHECK(!pending_.finish.has_value(), "a score after the finish");
  pending_.scores.push_back(std::move(score));
  dirty_ = true;
}

void Outbox::Close(Finish finish) {
  MutexLock lock(&mutex_);
  PACKRAT_CHECK(!pending_.finish.has_value(), "finished twice");
  // What was held back turned out to be text.
  if (finish.reason != FinishReason::kStopString) {
    pending_.safe_text_bytes = std::numeric_limits<size_t>::max();
  }
  pending_.finish = std::move(finish);
  dirty_ = true;
}

bool Outbox::Notify(const std::shared_ptr<WokenReaders>& readers) {
  bool again = false, notifies = false;
  {
    MutexLock lock(&mutex_);
    if (!dirty_ || notify_ == nullptr) return false;
    if (readers != nullptr && !late_) {
      again = late_ = readers_ != nullptr;
      readers_ = readers;
      woken_at_ = readers->Add();
    }
    notifies = !std::exchange(outstanding_, true);
  }
  if (notifies) notify_();
  return again;
}

}  // namespace packrat
