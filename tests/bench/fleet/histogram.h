// Percentiles of many durations in little memory.
#ifndef PACKRAT_TESTS_BENCH_FLEET_HISTOGRAM_H_
#define PACKRAT_TESTS_BENCH_FLEET_HISTOGRAM_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace packrat {

// Buckets of 1 % from a microsecond to a day: a percentile is right to half of that.
class Histogram {
 public:
  void Add(double seconds) {
    const double bucket = std::log(std::max(seconds, kLowest) / kLowest) / std::log1p(kStep);
    ++counts_[std::min(counts_.size() - 1, static_cast<size_t>(bucket))];
    ++count_;
    sum_ += seconds;
  }
  int64_t count() const { return count_; }
  double mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }
  // 0 where there is nothing. Range of `share`: [0, 1].
  double Percentile(double share) const {
    int64_t left = static_cast<int64_t>(share * static_cast<double>(count_ - 1));
    for (size_t i = 0; count_ > 0 && i < counts_.size(); ++i) {
      left -= counts_[i];
      if (left < 0) return kLowest * std::pow(1 + kStep, static_cast<double>(i) + 0.5);
    }
    return 0;
  }

 private:
  static constexpr double kLowest = 1e-6, kStep = 0.01;
  std::vector<int64_t> counts_ = std::vector<int64_t>(2540);
  int64_t count_ = 0;
  double sum_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_BENCH_FLEET_HISTOGRAM_H_
