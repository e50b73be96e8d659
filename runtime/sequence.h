// A request inside of the engine: what it asked for, what it holds, how far it is.
#ifndef PACKRAT_RUNTIME_SEQUENCE_H_
#define PACKRAT_RUNTIME_SEQUENCE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "models/batch.h"
#include "models/tokenizer.h"
#include "runtime/request.h"
#include "runtime/sampler.h"
#include "runtime/scheduler.h"
#include "runtime/state_pool.h"
#include "runtime/stop_matcher.h"
#include "runtime/validate.h"

namespace packrat {

class Sequence {
 public:
  // Takes what memory the text needs, on the caller's thread. `request` is valid.
  Sequence(Request request, const RequestLimits& limits, const Tokenizer* tokenizer,
           const StateLayout& layout, absl::Time now);

  // Takes all parts that `need()` names; Release() gives them back (if they were taken).
  void Admit(StatePool* pool, absl::Time now);
  void Release(StatePool* pool);

  // The next span of the text: a decoding token or `num_tokens` of the prompt. Its tokens are
  // appended to `tokens`, which has room for them.
  Span NextSpan(int num_tokens, std::vector<int32_t>* tokens) const;
  // The span has been computed.
  void Advance(const Span& span, const SpanStats& stats);

  // How the next token is drawn; valid until Accept().
  SamplingRow NextRow() const;
  bool wants_logprobs() const { return request_.sampling.num_logprobs >= 0; }
  // Takes a drawn token: emits it, unless it is an end or stop id. The reason if the text ends.
  std::optional<FinishReason> Accept(int32_t token, std::optional<TokenLogprobs> logprobs,
                                     absl::Time now);

  // Closes the outbox. Parts are given back before.
  void Finish(FinishReason reason, absl::Status status, absl::Time now);

  // `arrival`: its number in the order of arrival.
  WaitingItem AsWaiting(uint64_t arrival);
  RunningItem AsRunning() const;

  uint64_t id() const { return request_.id; }
  bool finished() const { return finished_; }
  bool decoding() const { return PromptLeft() == 0; }
  const PartCounts& need() const { return need_; }
  const std::shared_ptr<Outbox>& outbox() const { return request_.outbox; }
  int32_t slot() const { return slot_; }
  int32_t tail() const { return tail_; }
  const std::vector<std::vector<int32_t>>& pages() const { return pages_; }

 private:
  int PromptLeft() const;
  // Ids that may not be drawn now: the end ids, before min_tokens.
  absl::Span<const int32_t> MaskedIds() const;

  Request request_;
  SamplingState sampling_;
  std::vector<int32_t> eos_ids_;  // Empty where they are ignored.
  std::vector<int32_t> end_ids_;  // With the stop ids.
  std::optional<StopMatcher> stop_matcher_;
  std::optional<TextDecoder> decoder_;

  PartCounts need_;
  int32_t slot_ = -1, tail_ = -1;
  std::vector<std::vector<int32_t>> pages_;  // Per page class.
  std::vector<PageTable> page_tables_;       // Views of pages_.

  Rank rank_;
  int position_ = 0;  // Tokens that the state holds.
  int32_t last_token_ = -1;
  bool admitted_ = false;
  bool finished_ = false;
  absl::Time submitted_;
  Usage usage_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SEQUENCE_H_
