#include "server/generation/response_builder.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "proto/packrat/v1/inference.pb.h"

namespace packrat {
namespace {

// `tokenizer` may be null.
void FillTop(const TokenLogprobs& from, const Tokenizer* tokenizer,
             google::protobuf::RepeatedPtrField<v1::TopLogprob>* to) {
  for (const auto& [id, logprob] : from.top) {
    v1::TopLogprob* top = to->Add();
    top->set_token_id(id);
    top->set_logprob(logprob);
    if (tokenizer != nullptr) top->set_piece(tokenizer->PieceText(id));
  }
}

}  // namespace

ResponseBuilder::ResponseBuilder(const Tokenizer* tokenizer, bool skip_special, bool continues_text,
                                 const std::vector<int32_t>& prompt)
    : tokenizer_(tokenizer) {
  if (tokenizer == nullptr) return;
  decoder_.emplace(tokenizer, skip_special, continues_text);
  decoder_->Continue(prompt);
}

void ResponseBuilder::Add(Outbox::Update update) {
  if (next_ > 0) {
    tokens_.erase(tokens_.begin(), tokens_.begin() + next_);
    if (!logprobs_.empty()) logprobs_.erase(logprobs_.begin(), logprobs_.begin() + next_);
    next_ = 0;
  }
  if (next_score_ > 0) {
    scores_.erase(scores_.begin(), scores_.begin() + next_score_);
    next_score_ = 0;
  }
  std::move(update.scores.begin(), update.scores.end(), std::back_inserter(scores_));
  tokens_.insert(tokens_.end(), update.tokens.begin(), update.tokens.end());
  std::move(update.logprobs.begin(), update.logprobs.end(), std::back_inserter(logprobs_));
  safe_bytes_ = update.safe_text_bytes;
  if (update.finish.has_value()) {
    finish_ = std::move(update.finish);
    // Nothing can become a stop string any more.
    if (finish_->reason != FinishReason::kStopString) {
      safe_bytes_ = std::numeric_limits<size_t>::max();
    }
  }
}

void ResponseBuilder::DecodeNext() {
  held_ = true;
  if (decoder_) held_text_ = decoder_->Push(tokens_[next_]);
  text_bytes_ += held_text_.size();
}

size_t ResponseBuilder::EmitScore(v1::GenerateResponse* message) {
  const TokenScore& from = scores_[next_score_++];
  v1::TokenScore* to = message->add_scores();
  to->set_token_id(from.token);
  if (tokenizer_ != nullptr) to->set_piece(tokenizer_->PieceText(from.token));
  to->set_logprob(from.logprobs.logprob);
  FillTop(from.logprobs, tokenizer_, to->mutable_top());
  to->set_best_token_id(from.best);
  to->set_entropy(from.entropy);
  to->set_margin(from.margin);
  ++score_.tokens;
  score_.logprob += from.logprobs.logprob;
  score_.greedy = score_.greedy && from.best == from.token;
  return to->ByteSizeLong();
}

size_t ResponseBuilder::EmitToken(v1::GenerateResponse* message) {
  size_t bytes = 16 + held_text_.size();
  message->add_token_ids(tokens_[next_]);
  message->mutable_text()->append(held_text_);
  if (!logprobs_.empty()) {
    const TokenLogprobs& from = logprobs_[next_];
    v1::TokenLogprobs* to = message->add_logprobs();
    to->set_logprob(from.logprob);
    FillTop(from, tokenizer_, to->mutable_top());
    bytes += to->ByteSizeLong();
  }
  held_ = false;
  held_text_.clear();
  ++next_;
  return bytes;
}

bool ResponseBuilder::Build(v1::GenerateResponse* message) {
  if (done_) return false;
  size_t bytes = 0;
  while (next_score_ < scores_.size()) {
    bytes += EmitScore(message);
    if (bytes >= kMessageBytes) return true;
  }
  while (held_ || next_ < tokens_.size()) {
    if (!held_) DecodeNext();
    if (text_bytes_ > safe_bytes_) break;
    bytes += EmitToken(message);
    if (bytes >= kMessageBytes) return true;
  }
  if (held_) {
    // The text before a possible stop string may end inside a token. Its certain part is sent, and
    // the token waits.
    const size_t sent = text_bytes_ - held_text_.size();
    const size_t certain = safe_bytes_ > sent ? safe_bytes_ - sent : 0;
    message->mutable_text()->append(held_text_, 0, certain);
    held_text_.erase(0, certain);
  }
  if (finish_.has_value()) {
    done_ = true;
    if (decoder_ && finish_->reason != FinishReason::kStopString) {
      message->mutable_text()->append(decoder_->Finish());
    }
  }
  return message->scores_size() > 0 || message->token_ids_size() > 0 || !message->text().empty();
}

}  // namespace packrat
