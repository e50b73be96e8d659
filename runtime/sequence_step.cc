// What a step takes of a sequence, its tokens and the rows that it asks for, and what it gives
// back.
#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "runtime/sequence.h"

namespace packrat {
namespace {

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Span Sequence::StartSpan(int num_tokens, StatePool* pool, std::vector<int32_t>* tokens,
                         std::vector<SamplingRow>* rows) {
  Span span;
  span.first_token = static_cast<int32_t>(tokens->size());
  span.solver = request_.solver;
  const int left = PromptLeft();
  if (left == 0) {
    PACKRAT_CHECK(num_tokens == 1 && (awaited_ > 0 || last_token_ >= 0));
    tokens->push_back(awaited_ > 0 ? SampledInRow(last_row_) : last_token_);
    span.num_logits = 1;
  } else {
    PACKRAT_CHECK(num_tokens <= left);
    const auto begin = request_.prompt.begin() + state_.position();
    tokens->insert(tokens->end(), begin, begin + num_tokens);
  }
  state_.StartSpan(num_tokens, pool, &span);
  ++unread_;
  const int position = state_.position();
  span.num_logits = std::min(num_tokens, std::max(0, position - first_row_));
  for (int next = position - span.num_logits + 1; next <= position; ++next) {
    if (next < prompt_tokens()) {
      rows->push_back(ScoreRow(next));
      continue;
    }
    last_row_ = static_cast<int>(rows->size());
    rows->push_back(NextRow());
    ++awaited_;
  }
  return span;
}

// A step samples one row; those of scores have no lists.
size_t Sequence::MostListBytes() const {
  if (request_.stop.max_tokens == 0) return 0;
  const size_t tokens = request_.prompt.size() + request_.stop.max_tokens;
  const size_t masked = request_.stop.min_tokens > 0 ? end_ids_.size() : 0;
  const size_t mask_words = request_.grammar != nullptr ? request_.grammar->mask_words() : 0;
  return sampling_.MostListBytes(std::min<size_t>(tokens, vocab_size_), masked, mask_words);
}

SamplingRow Sequence::NextRow() const {
  absl::Span<const int32_t> masked;
  if (StartedTokens() < request_.stop.min_tokens) masked = end_ids_;
  absl::Span<const uint32_t> mask;
  if (position_.has_value()) {
    PACKRAT_CHECK(awaited_ == 0 && position_->has_mask(),
                  "a mask is asked for before the token that it depends on is there");
    mask = position_->mask();
  }
  return sampling_.Row(masked, request_.prompt.size() + StartedTokens(), mask);
}

absl::Status Sequence::FindMask(int64_t* work) {
  const int64_t before = position_->work();
  const absl::Status status = position_->FindMask(end_ids_);
  *work += position_->work() - before;
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("after ", usage_.completion_tokens,
                                   " tokens the grammar was given up: ", status.message()));
}

absl::Status Sequence::NothingLeft() const {
  if (!position_.has_value()) return ToStatus(SampledToken::Status::kNothingLeft);
  return absl::InvalidArgumentError(absl::StrCat(
      "after ", usage_.completion_tokens,
      " tokens none is left that goes on in the grammar and that sampling and stop allow"));
}

SamplingRow Sequence::ScoreRow(int index) const {
  SamplingRow row;
  row.num_ids = vocab_size_;
  row.num_logprobs = request_.sampling.num_logprobs.value_or(0);
  row.given = request_.prompt[index];
  return row;
}

std::optional<FinishReason> Sequence::AcceptScore(TokenScore score) {
  request_.outbox->AppendScore(std::move(score));
  ++scored_;
  const bool all = scored_ == static_cast<int>(request_.prompt.size()) - *request_.score_from;
  if (all && request_.stop.max_tokens == 0) return FinishReason::kLength;
  return std::nullopt;
}

std::optional<FinishReason> Sequence::Accept(int32_t token, std::optional<TokenLogprobs> logprobs,
                                             absl::Time now) {
  if (usage_.completion_tokens == 0) usage_.time_to_first_token = now - submitted_;
  last_progress_ = now;
  ++usage_.completion_tokens;
  PACKRAT_CHECK(awaited_ > 0);
  --awaited_;
  last_token_ = token;
  sampling_.AddGenerated(token);
  if (uses_cache_) generated_.push_back(token);
  const bool may_stop = usage_.completion_tokens > request_.stop.min_tokens;
  if (may_stop && (Contains(eos_ids_, token) || Contains(request_.stop.ids, token))) {
    open_from_ = -1;  // It was no stop string.
    ended_by_id_ = true;
    return Contains(eos_ids_, token) ? FinishReason::kEos : FinishReason::kStopId;
  }

  bool complete = false;  // In the grammar nothing can follow.
  if (position_.has_value()) {
    position_->Accept(token);
    complete = position_->must_end();
  }
  bool stopped = false;
  size_t safe_text_bytes = std::numeric_limits<size_t>::max();
  if (stop_matcher_.has_value()) {
    const std::string text = decoder_->Push(token);
    stopped = stop_matcher_->Push(text.data(), text.size(), /*ignore=*/!may_stop);
    safe_text_bytes = stop_matcher_->safe_bytes();
    if (!stop_matcher_->open()) {
      open_from_ = -1;
    } else if (open_from_ < 0) {
      open_from_ = prompt_tokens() + usage_.completion_tokens - 1;
    }
  }
  request_.outbox->Append(token, std::move(logprobs), safe_text_bytes);
  if (stopped) return FinishReason::kStopString;
  if (!complete && usage_.completion_tokens < request_.stop.max_tokens) return std::nullopt;
  open_from_ = -1;
  return complete ? FinishReason::kEos : FinishReason::kLength;
}

}  // namespace packrat
