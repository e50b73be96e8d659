#include "server/response_builder.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "proto/packrat/v1/inference.pb.h"

namespace packrat {

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

size_t ResponseBuilder::EmitToken(v1::GenerateResponse* message) {
  size_t bytes = 16 + held_text_.size();
  message->add_token_ids(tokens_[next_]);
  message->mutable_text()->append(held_text_);
  if (!logprobs_.empty()) {
    const TokenLogprobs& from = logprobs_[next_];
    v1::TokenLogprobs* to = message->add_logprobs();
    to->set_logprob(from.logprob);
    for (const auto& [id, logprob] : from.top) {
      v1::TopLogprob* top = to->add_top();
      top->set_token_id(id);
      top->set_logprob(logprob);
      if (tokenizer_ != nullptr) top->set_piece(tokenizer_->PieceText(id));
    }
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
  while (held_ || next_ < tokens_.size()) {
    if (!held_) DecodeNext();
    if (text_bytes_ > safe_bytes_) break;
    bytes += EmitToken(message);
    if (bytes >= kMessageBytes) return true;
  }
  if (held_) {
    // The text before a possible stop string may end inside a token: its certain part goes, the
    // token waits.
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
  return message->token_ids_size() > 0 || !message->text().empty();
}

}  // namespace packrat
