#include "runtime/sequence.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "kernels/check.h"

namespace packrat {
namespace {

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Sequence::Sequence(Request request, const RequestLimits& limits, const Tokenizer* tokenizer,
                   const StateLayout& layout, absl::Time now)
    : request_(std::move(request)),
      vocab_size_(limits.vocab_size),
      // Where nothing is generated, nobody asks what the last token predicts.
      prompt_end_(static_cast<int>(request_.prompt.size()) - (request_.stop.max_tokens == 0)),
      first_row_(request_.score_from.value_or(static_cast<int>(request_.prompt.size())) - 1),
      sampling_(request_.sampling, limits.num_ids),
      end_ids_(EndIds(request_.stop, limits.eos_ids)),
      need_(SequenceNeeds(layout, request_.prompt.size() + request_.stop.max_tokens)),
      submitted_(now),
      last_progress_(now) {
  if (!request_.stop.ignore_eos) eos_ids_ = limits.eos_ids;
  const TextParams& text = request_.text;
  if (!text.stop_strings.empty()) {
    stop_matcher_.emplace(text.stop_strings);
    decoder_.emplace(tokenizer, text.skip_special_tokens, text.continues_text);
    decoder_->Continue(request_.prompt);
  }
  usage_.prompt_tokens = static_cast<int>(request_.prompt.size());
}

void Sequence::Admit(StatePool* pool, absl::Time now) {
  PACKRAT_CHECK(!admitted_, "admitted twice");
  // First what can be refused.
  std::vector<std::vector<int32_t>> pages(need_.pages.size());
  for (size_t c = 0; c < pages.size(); ++c) pages[c].resize(need_.pages[c]);
  page_tables_.resize(pages.size());
  sampling_.Begin(request_.prompt, request_.stop.max_tokens);
  request_.outbox->Reserve(request_.stop.max_tokens, wants_logprobs());

  admitted_ = true;
  usage_.queue_time = now - submitted_;
  if (need_.slots > 0) slot_ = pool->TakeSlot();
  tail_ = pool->TakeTail();
  pages_ = std::move(pages);
  for (size_t c = 0; c < pages_.size(); ++c) {
    for (int32_t& page : pages_[c]) page = pool->TakePage(static_cast<int>(c));
    page_tables_[c] = {pages_[c].data(), need_.pages[c]};
  }
  request_.outbox->Admit();
}

void Sequence::Release(StatePool* pool) {
  if (slot_ >= 0) pool->UnrefSlot(slot_);
  if (tail_ >= 0) pool->FreeTail(tail_);
  for (size_t c = 0; c < pages_.size(); ++c) {
    for (int32_t page : pages_[c]) pool->UnrefPage(static_cast<int>(c), page);
  }
  slot_ = tail_ = -1;
  pages_.clear();
  page_tables_.clear();
}

int Sequence::PromptLeft() const { return std::max(0, prompt_end_ - position_); }

int64_t Sequence::unused() const {
  if (!admitted_) return 0;
  return cost() - (usage_.prompt_tokens - PromptLeft()) - usage_.completion_tokens;
}

Span Sequence::StartSpan(int num_tokens, std::vector<int32_t>* tokens,
                         std::vector<SamplingRow>* rows) {
  Span span;
  span.first_token = static_cast<int32_t>(tokens->size());
  span.num_tokens = num_tokens;
  span.position = position_;
  span.slot_in = span.slot_out = slot_;  // In place: nobody shares it yet.
  span.tail = tail_;
  span.pages = page_tables_.data();
  span.solver = request_.solver;
  const int left = PromptLeft();
  if (left == 0) {
    PACKRAT_CHECK(num_tokens == 1 && (awaited_ > 0 || last_token_ >= 0));
    tokens->push_back(awaited_ > 0 ? SampledInRow(last_row_) : last_token_);
    span.num_logits = 1;
  } else {
    PACKRAT_CHECK(num_tokens <= left);
    const auto begin = request_.prompt.begin() + position_;
    tokens->insert(tokens->end(), begin, begin + num_tokens);
  }
  position_ += num_tokens;
  span.num_logits = std::min(num_tokens, std::max(0, position_ - first_row_));
  const auto prompt_size = static_cast<int>(request_.prompt.size());
  for (int next = position_ - span.num_logits + 1; next <= position_; ++next) {
    if (next < prompt_size) {
      rows->push_back(ScoreRow(next));
      continue;
    }
    last_row_ = static_cast<int>(rows->size());
    rows->push_back(NextRow());
    ++awaited_;
  }
  return span;
}

SamplingRow Sequence::NextRow() const {
  absl::Span<const int32_t> masked;
  if (StartedTokens() < request_.stop.min_tokens) masked = end_ids_;
  return sampling_.Row(masked, request_.prompt.size() + StartedTokens());
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
  const bool may_stop = usage_.completion_tokens > request_.stop.min_tokens;
  if (may_stop && Contains(eos_ids_, token)) return FinishReason::kEos;
  if (may_stop && Contains(request_.stop.ids, token)) return FinishReason::kStopId;

  bool stopped = false;
  size_t safe_text_bytes = std::numeric_limits<size_t>::max();
  if (stop_matcher_.has_value()) {
    const std::string text = decoder_->Push(token);
    stopped = stop_matcher_->Push(text.data(), text.size(), /*ignore=*/!may_stop);
    safe_text_bytes = stop_matcher_->safe_bytes();
  }
  request_.outbox->Append(token, std::move(logprobs), safe_text_bytes);
  if (stopped) return FinishReason::kStopString;
  if (usage_.completion_tokens == request_.stop.max_tokens) return FinishReason::kLength;
  return std::nullopt;
}

void Sequence::Finish(FinishReason reason, absl::Status status, absl::Time now) {
  PACKRAT_CHECK(!finished_ && tail_ < 0);
  finished_ = true;
  usage_.total_time = now - submitted_;
  if (!admitted_) usage_.queue_time = usage_.total_time;
  request_.outbox->Close({reason, std::move(status), usage_});
}

WaitingItem Sequence::AsWaiting(uint64_t arrival, absl::Time now, int tenant) {
  submitted_ = last_progress_ = std::min(submitted_, now);
  rank_ = {request_.priority, arrival};
  tenant_ = tenant;
  WaitingItem item;
  item.arrival = arrival;
  item.arrived = submitted_;
  item.deadline = request_.deadline;
  item.prompt_tokens = prompt_end_;
  item.first_row = first_row_;
  item.cost = cost();
  item.need = &need_;
  return item;
}

RunningItem Sequence::AsRunning() const {
  const bool complete = PromptLeft() == 0 && StartedTokens() == request_.stop.max_tokens;
  return {rank_, tenant_, request_.deadline, position_, PromptLeft(), complete, first_row_};
}

}  // namespace packrat
