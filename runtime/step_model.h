// How long a step takes, by what is in it. Five prices, none below 0, are fitted to steps that were
// timed:
//
//   seconds = step + token * tokens + row * rows + read * reads + pair * pairs
//
//   step   whatever is in it: the weights are read once (bytes)
//   token  of a prompt or decoding: its products (operations)
//   row    of logits: the output matrix, drawing from it, and what else a decoding text takes
//   read   an entry of its context that a decoding token reads (bytes)
//   pair   a prompt's token and an entry of its context (operations)
//
// A window or a recurrent state makes the last two small. It is a pure function of what it is told,
// and allocates nothing.
#ifndef PACKRAT_RUNTIME_STEP_MODEL_H_
#define PACKRAT_RUNTIME_STEP_MODEL_H_

#include <array>
#include <cstdint>

namespace packrat {

struct StepContents {
  int tokens = 0;
  int rows = 0;
  int64_t reads = 0;
  int64_t pairs = 0;
  bool has_prompt = false;

  // `tokens` tokens of one text after `position` others.
  void Add(int num_tokens, int64_t position, int num_rows);
};

class StepModel {
 public:
  static constexpr int kPrices = 5;
  using Vector = std::array<double, kPrices>;  // step, token, row, read, pair

  // Of `memory` steps with prompts and as many without the later ones count most: what was learned
  // of prompts is not forgotten while none come. 0: all count alike.
  explicit StepModel(double memory = 64);

  // A step took so long: the prices follow. What counts is the error as a share of `seconds`, so a
  // step that took far too long moves them hardly at all.
  void Observe(const StepContents& contents, double seconds);
  // Goes on from the prices as they are towards those with the least sum of squares.
  void Fit(int sweeps);

  // 0 as long as nothing was observed.
  double Seconds(const StepContents& contents) const;
  const Vector& prices() const { return prices_; }

  // How many tokens of prompts, of which none lies beyond `position`, a step may have beside
  // `decoding`, so that it is over after `seconds`. But never so few that prompts have less of the
  // step than decoding has, and never fewer than a block or more than `most`.
  int PromptTokens(const StepContents& decoding, int64_t position, double seconds, int most) const;

 private:
  // Sums over steps: x the contents over the step's seconds, so that prices * x should be 1.
  struct Sums {
    std::array<Vector, kPrices> xx = {};
    Vector x = {};
  };

  const double kept_;  // Of the sums, with each step.
  Sums sums_[2];       // Of steps without prompts, and with.
  Vector prices_ = {};
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_STEP_MODEL_H_
