#include "tests/bench/random_texts.h"

#include "kernels/check.h"

namespace packrat {

SpanStats RandomTexts::Feed(int first, int count, int tokens) {
  Clear();
  for (int text = first; text < first + count; ++text) {
    Add(text, tokens, position_[text], 1);
    position_[text] += tokens;
  }
  stats_.resize(spans_.size());
  const auto logits = model_->Forward(batch(), memory(), stats_.data());
  PACKRAT_CHECK(logits.ok() && stats_[0].finite);
  return stats_[0];
}

void RandomTexts::Clear() {
  ids_.clear();
  spans_.clear();
}

void RandomTexts::Add(int text, int tokens, int position, int num_logits) {
  spans_.push_back(state_->SpanFor(text, static_cast<int>(ids_.size()), tokens, position));
  spans_.back().num_logits = num_logits;
  for (int t = 0; t < tokens; ++t) {
    random_ = random_ * 6364136223846793005u + 1442695040888963407u;
    ids_.push_back(static_cast<int32_t>((random_ >> 33) % model_->config().vocab_size));
  }
}

Batch RandomTexts::batch() const {
  return {ids_.data(), static_cast<int32_t>(ids_.size()), spans_.data(),
          static_cast<int32_t>(spans_.size())};
}

}  // namespace packrat
