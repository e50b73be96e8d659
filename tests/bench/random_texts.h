// Texts of random ids in a model: what benchmarks feed and decode.
#ifndef PACKRAT_TESTS_BENCH_RANDOM_TEXTS_H_
#define PACKRAT_TESTS_BENCH_RANDOM_TEXTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "models/batch.h"
#include "models/model.h"
#include "models/owned_state.h"

namespace packrat {

class RandomTexts {
 public:
  // `count` texts of up to `max_tokens`, without any.
  RandomTexts(LanguageModel* model, int count, int max_tokens)
      : model_(model), state_(*OwnedState::Create(model, count, max_tokens)), position_(count, 0) {}

  // Feeds `tokens` tokens to each of `count` texts from `first` on, all in one batch that asks for
  // the logits of the last ones. What the model says of the first text.
  SpanStats Feed(int first, int count, int tokens);

  // Pretends that a text has so many tokens: what lies before is whatever the memory holds.
  void MoveTo(int text, int position) { position_[text] = position; }
  int position(int text) const { return position_[text]; }

  // A batch by hand: Clear(), Add() for each text, and batch() until the next Clear().
  void Clear();
  void Add(int text, int tokens, int position, int num_logits);
  Batch batch() const;
  const StateMemory& memory() const { return state_->memory(); }

 private:
  LanguageModel* const model_;
  const std::unique_ptr<OwnedState> state_;
  std::vector<int> position_;
  uint64_t random_ = 1;
  std::vector<int32_t> ids_;
  std::vector<Span> spans_;
  std::vector<SpanStats> stats_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_BENCH_RANDOM_TEXTS_H_
