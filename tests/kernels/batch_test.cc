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
  // Fills a table. Where a GPU does that: beside the rows of an embedding.
  absl::Status Fill(const RopeTable& table) {
#ifdef PACKRAT_GPU
    DeviceArray<RopeTable> tables(std::vector<RopeTable>{table});
    DeviceArray<SpanTotals> totals(Batch().num_spans);
    const gpu::StepBeginning step = {Batch(), tables.data(), 1, totals.data()};
    const absl::Status status =
        gpu::Embed(nullptr, DType::kF32, nullptr, nullptr, 0, 8, 1.0f, nullptr, step, stream_);
    Wait();
    return status;
#else
    return Run([&](KernelContext* context) {
      return FillRope(Batch(), table.frequencies, table.head_dim, table.divisor, table.factor,
                      table.rows, context);
    });
#endif
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
          ASSERT_TRUE(Fill({frequencies.data(), rope.data(), head_dim, divisor, factor}).ok());
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

#ifdef PACKRAT_GPU
// One launch embeds, fills two tables and clears totals, each as it would alone.
TEST_F(BatchTest, AStepBeginsWithOneLaunch) {
  constexpr int kWidth = 40;
  Random random(7);
  const std::vector<float> table = random.Normals(5 * kWidth);
  DeviceArray<float> embedding(table);
  DeviceArray<int32_t> tokens(std::vector<int32_t>(token_span_.size(), 3));
  const int head_dims[] = {64, 6};
  DeviceArray<double> frequencies[] = {DeviceArray<double>(RopeFrequencies(10000.0, 64)),
                                       DeviceArray<double>(RopeFrequencies(500.0, 6))};
  const size_t n = token_span_.size();
  DeviceArray<float> alone[] = {DeviceArray<float>(n * 64), DeviceArray<float>(n * 6)};
  ForEachOrder([&] {
    DeviceArray<float> x(n * kWidth);
    DeviceArray<float> rows[] = {DeviceArray<float>(n * 64), DeviceArray<float>(n * 6)};
    std::vector<RopeTable> ropes;
    for (int i = 0; i < 2; ++i) {
      ASSERT_TRUE(Fill({frequencies[i].data(), alone[i].data(), head_dims[i], 1 + i, 0.7}).ok());
      ropes.push_back({frequencies[i].data(), rows[i].data(), head_dims[i], 1 + i, 0.7});
    }
    DeviceArray<RopeTable> device_ropes(ropes);
    DeviceArray<SpanTotals> totals(4);  // All bits are set.
    ASSERT_TRUE(gpu::Embed(embedding.data(), DType::kF32, tokens.data(), nullptr,
                           static_cast<int>(n), kWidth, 1.0f, x.data(),
                           {Batch(), device_ropes.data(), 2, totals.data()}, stream_)
                    .ok());
    Wait();
    for (int i = 0; i < 2; ++i) {
      const std::vector<float> got = rows[i].Get(), expected = alone[i].Get();
      EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0) << i;
    }
    const std::vector<float> embedded = x.Get();
    for (size_t i = 0; i < embedded.size(); ++i) {
      ASSERT_EQ(embedded[i], table[3 * kWidth + i % kWidth]) << i;
    }
    for (const SpanTotals& t : totals.Get()) {
      EXPECT_EQ(t.solver_steps + t.solver_solves, 0u);
      EXPECT_EQ(t.solver_unconverged + t.max_residual_bits + t.not_finite, 0u);
    }
  });
}
#endif

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
