// How the values of a quantity are spread: counts by fixed buckets, as Prometheus' histograms have
// them. Observe() neither locks nor allocates: one thread fills an object, others read copies.
#ifndef PACKRAT_RUNTIME_BUCKET_COUNTS_H_
#define PACKRAT_RUNTIME_BUCKET_COUNTS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "kernels/check.h"

namespace packrat {

// Upper ends of buckets, ascending.
//
// Seconds: from half a millisecond, which a small model needs for one token, to what a long text on
// a busy server takes.
inline constexpr double kSecondsBounds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                            0.05,   0.1,   0.25,   0.5,   1,    2.5,
                                            5,      10,    30,     60,    120,  300};
// Lengths of texts, in tokens.
inline constexpr double kTokensBounds[] = {1,     2,     4,     8,      16,     32,     64,
                                           128,   256,   512,   1024,   2048,   4096,   8192,
                                           16384, 32768, 65536, 131072, 262144, 524288, 1048576};
// What a step computes: as far as max_batch_tokens and max_running reach.
inline constexpr absl::Span<const double> kBatchTokensBounds(kTokensBounds, 17);
inline constexpr absl::Span<const double> kBatchSequencesBounds(kTokensBounds, 13);

// What came of a forecast, as a part of it.
inline constexpr double kRatioBounds[] = {0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4};

class BucketCounts {
 public:
  static constexpr size_t kMaxBounds = 24;

  // `bounds` lives as long as the program.
  explicit BucketCounts(absl::Span<const double> bounds) : bounds_(bounds) {
    PACKRAT_CHECK(bounds.size() <= kMaxBounds);
  }

  void Observe(double value) {
    ++counts_[std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin()];
    sum_ += value;
  }

  absl::Span<const double> bounds() const { return bounds_; }
  // Of the values in (bounds()[i - 1], bounds()[i]]; i == bounds().size(): of those above all.
  int64_t count(size_t i) const { return counts_[i]; }
  double sum() const { return sum_; }

 private:
  absl::Span<const double> bounds_;
  std::array<int64_t, kMaxBounds + 1> counts_ = {};
  double sum_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_BUCKET_COUNTS_H_
