// Operations on the rows of a batch that look at its spans.
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/rope.h"
#include "tests/kernels/device.h"

namespace packrat {
namespace {

class BatchTest : public KernelTest {
 protected:
  // Three spans, the second unused, and unused tokens in between and at the end.
  static std::vector<BatchSpan> Spans() {
    std::vector<BatchSpan> spans(4);
    spans[0].first_token = 0, spans[0].num_tokens = 1, spans[0].position = 1000000;
    spans[2].first_token = 2, spans[2].num_tokens = 5, spans[2].position = 13;
    spans[3].first_token = 7, spans[3].num_tokens = 2, spans[3].position = 0;
    return spans;
  }
  const std::vector<int32_t> token_span_ = {0, -1, 2, 2, 2, 2, 2, 3, 3, -1};
  BatchView Batch() const {
    BatchView batch;
    batch.spans = spans_->data();
    batch.token_span = device_token_span_->data();
    batch.num_spans = 4;
    batch.num_tokens = static_cast<int>(token_span_.size());
    batch.max_span_tokens = 5;
    batch.max_context = 1000001;
    return batch;
  }

  void SetUp() override {
    KernelTest::SetUp();
    if (IsSkipped()) return;
    spans_ = std::make_unique<DeviceArray<BatchSpan>>(Spans());
    device_token_span_ = std::make_unique<DeviceArray<int32_t>>(token_span_);
  }

 private:
  std::unique_ptr<DeviceArray<BatchSpan>> spans_;
  std::unique_ptr<DeviceArray<int32_t>> device_token_span_;
};

// An angle in double precision: the frequency is good to a few units in its last place, times the
// position, and so are sine and cosine; then one rounding to float32 of a value of at most one.
TEST_F(BatchTest, FillRopeSetsTheRowsOfTokens) {
  for (const double base : {10000.0, 500000.0, 10.0}) {
    for (const int head_dim : {2, 6, 64, 130}) {
      for (const int divisor : {1, 3, 16}) {
        const double factor = divisor == 3 ? 0.7 : 1.0;
        const int half = head_dim / 2;
        DeviceArray<double> frequencies(RopeFrequencies(base, head_dim));
        ForEachDevice([&] {
          DeviceArray<float> rope(token_span_.size() * head_dim);
          ASSERT_TRUE(Run([&](auto device) {
                        return ops::FillRope(Batch(), frequencies.data(), head_dim, divisor, factor,
                                             rope.data(), device);
                      }).ok());
          const std::vector<float> out = rope.Get();
          for (size_t token = 0; token < token_span_.size(); ++token) {
            const float* row = &out[token * head_dim];
            if (token_span_[token] < 0) {
              const std::vector<unsigned char> unwritten(head_dim * sizeof(float), 0xFF);
              ASSERT_EQ(std::memcmp(row, unwritten.data(), unwritten.size()), 0)
                  << "an unused row was written";
              continue;
            }
            const BatchSpan span = Spans()[token_span_[token]];
            const int position = span.position + static_cast<int>(token) - span.first_token;
            const int step = position / divisor;
            for (int i = 0; i < half; ++i) {
              const long double angle =
                  static_cast<long double>(step) /
                  std::pow(static_cast<long double>(base), 2.0L * i / head_dim);
              const double tolerance =
                  kUnit / 2 + 8 * 0x1p-53 * (1 + static_cast<double>(std::fabs(angle)));
              ASSERT_NEAR(row[i], factor * static_cast<double>(std::cos(angle)), tolerance);
              ASSERT_NEAR(row[half + i], factor * static_cast<double>(std::sin(angle)), tolerance);
            }
          }
        });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(BatchTest, CheckFiniteFindsOneAtEveryPlace) {
  Random random(5);
  DeviceArray<SpanTotals> stats(4);
  for (const int n : {1, 40, 2051}) {
    auto x = random.Normals(token_span_.size() * n, 1e38f);
    for (float& v : x) v = std::isfinite(v) ? v : 3e38f;
    DeviceArray<float> device_x(x);
    const auto run = [&] {
      stats.Set(std::vector<SpanTotals>(4, SpanTotals()));
      device_x.Set(x);
      EXPECT_TRUE(Run([&](auto device) {
                    return ops::CheckFinite(Batch(), device_x.data(), n, stats.data(), device);
                  }).ok());
      return stats.Get();
    };
    // Unused rows may hold anything.
    x[n] = x[9 * n] = kNaN;
    ForEachDevice([&] {
      for (const SpanTotals& s : run()) EXPECT_EQ(s.not_finite, 0u);
      for (size_t token = 0; token < token_span_.size(); ++token) {
        const int span = token_span_[token];
        if (span < 0) continue;
        for (const float bad : {kNaN, -kInfinity}) {
          for (const int i : {0, n / 2, n - 1}) {
            const float kept = std::exchange(x[token * n + i], bad);
            const std::vector<SpanTotals> found = run();
            for (int s = 0; s < 4; ++s) {
              ASSERT_EQ(found[s].not_finite, s == span)
                  << bad << " at " << i << " of token " << token;
              ASSERT_EQ(found[s].solver_steps, 0u);
            }
            x[token * n + i] = kept;
          }
        }
      }
    });
  }
}

}  // namespace
}  // namespace packrat
