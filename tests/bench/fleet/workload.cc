#include "tests/bench/fleet/workload.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace packrat {

Lengths Constant(int value) {
  return [value](Random*) { return value; };
}

Lengths LogNormal(double median, double sigma, int most) {
  return [median, sigma, most](Random* random) {
    std::lognormal_distribution<double> draw(std::log(median), sigma);
    return std::clamp(static_cast<int>(std::lround(draw(*random))), 1, most);
  };
}

Lengths Geometric(double mean) {
  return [mean](Random* random) { return 1 + std::geometric_distribution<int>(1 / mean)(*random); };
}

double Workload::RateAt(double time) const {
  return per_second * (1 + swing * std::cos(2 * M_PI * (time - peak) / day));
}

absl::StatusOr<StepTimes> StepTimes::Parse(const std::string& text) {
  std::vector<std::pair<int, double>> decode;
  double prompt_token = -1;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (line.empty() || line.front() == '#') continue;
    const std::vector<absl::string_view> words = absl::StrSplit(line, '\t');
    int sequences = 0;
    double seconds = -1;
    const bool read = absl::SimpleAtod(words.back(), &seconds) && seconds >= 0;
    if (read && words.size() == 2 && words[0] == "prompt_token") {
      prompt_token = seconds;
    } else if (read && words.size() == 3 && words[0] == "decode" &&
               absl::SimpleAtoi(words[1], &sequences) &&
               sequences >= (decode.empty() ? 0 : decode.back().first + 1) &&
               (!decode.empty() || sequences == 0)) {
      decode.emplace_back(sequences, seconds);
    } else {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, " is \"", line, "\""));
    }
  }
  if (decode.size() < 2 || prompt_token < 0) {
    return absl::InvalidArgumentError("two lines of decode and one of prompt_token are needed");
  }
  return StepTimes(std::move(decode), prompt_token);
}

double StepTimes::Seconds(int decoding, int prompt_tokens) const {
  size_t i = 1;
  while (i + 1 < decode_.size() && decode_[i].first < decoding) ++i;
  const auto& [low, low_seconds] = decode_[i - 1];
  const auto& [high, high_seconds] = decode_[i];
  const double share = static_cast<double>(decoding - low) / (high - low);
  return low_seconds + share * (high_seconds - low_seconds) + prompt_tokens * prompt_token_;
}

}  // namespace packrat
