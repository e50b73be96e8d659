// Who comes, when, and with how much: the assumptions of the simulated fleet.
#ifndef PACKRAT_TESTS_BENCH_FLEET_WORKLOAD_H_
#define PACKRAT_TESTS_BENCH_FLEET_WORKLOAD_H_

#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace packrat {

using Random = std::mt19937_64;
// A number of tokens or turns, at least 1.
using Lengths = std::function<int(Random*)>;

Lengths Constant(int value);
// exp(N(log median, sigma)), rounded, and cut to [1, most].
Lengths LogNormal(double median, double sigma, int most);
// 1 + the failures before a success: the mean is `mean`, and what is left does not depend on what
// has been.
Lengths Geometric(double mean);

struct Workload {
  // Conversations begin as a Poisson process whose rate goes up and down with the day:
  // mean * (1 + swing * cos(2 pi (t - peak) / day)).
  double per_second = 1;  // The mean.
  double swing = 0;       // Range [0, 1).
  double day = 86400;     // Seconds.
  double peak = 72000;    // Seconds after the day's beginning: eight in the evening.
  Lengths turns = Constant(1);
  Lengths first_prompt = Constant(1);  // Tokens: instructions and the first message.
  Lengths message = Constant(1);       // Tokens of each later message.
  Lengths reply = Constant(1);
  double think = 30;  // Mean seconds between a reply and the next message; exponential.

  double RateAt(double time) const;
  double HighestRate() const { return per_second * (1 + swing); }
};

// Seconds of a step: a table over the sequences that decode in it, read linearly between its rows
// and beyond the last, and a price for each prompt token.
class StepTimes {
 public:
  StepTimes(std::vector<std::pair<int, double>> decode, double prompt_token)
      : decode_(std::move(decode)), prompt_token_(prompt_token) {}
  // Lines "decode<tab>SEQUENCES<tab>SECONDS" (0 sequences first, then ascending; two or more) and
  // one "prompt_token<tab>SECONDS"; # begins a comment. INVALID_ARGUMENT names the line.
  static absl::StatusOr<StepTimes> Parse(const std::string& text);

  double Seconds(int decoding, int prompt_tokens) const;

 private:
  std::vector<std::pair<int, double>> decode_;
  double prompt_token_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_BENCH_FLEET_WORKLOAD_H_
