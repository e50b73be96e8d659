// The storm (storm.h) on the golden models, with the real kernels: whatever has happened to a text
// and around it, its tokens, its scores and the bits of their log-probabilities are those that the
// same request gets alone from an engine that keeps nothing.
#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "tests/runtime/golden_engine.h"
#include "tests/runtime/storm.h"

namespace packrat {
namespace {

// On an emulated device every step takes long, and time on a device is dear.
constexpr int kOperations = kOnGpu ? 240 : 2400, kEngines = 8;
constexpr int kContext = 256;

class EngineGoldenStormTest : public GoldenEngineTest, public StormModel {
 protected:
  void Prepare(Request* request) override {
    request->sampling.num_logprobs = 3;  // Their bits tell more than the tokens.
    request->sampling.temperature = Pick(2) ? 1.0f : 0.0f;
    request->sampling.seed = request->id;
  }
  SolverOptions other_solver() const override {
    SolverOptions solver;
    solver.cg_max_steps = 2;
    return solver;
  }
  LanguageModel* model() override { return model_.get(); }
  bool allocates() const override { return kOnGpu; }

  void Check(const Request& request, const Consumer& seen) override {
    if (seen.tokens.empty() && seen.scores.empty()) return;
    Consumer alone;
    Request again = request;
    again.outbox = alone.outbox;
    again.cache = {};
    again.priority = 0;
    again.deadline = absl::InfiniteFuture();
    again.stop.max_tokens = static_cast<int>(seen.tokens.size());
    if (seen.scores.empty()) again.score_from.reset();
    Submit(alone_.get(), std::move(again));
    RunUntilIdle(alone_.get());
    alone.Poll();
    ASSERT_TRUE(alone.finish.has_value() && alone.finish->status.ok());
    ExpectSameBits(seen, alone, seen.tokens.size());
    ASSERT_GE(alone.scores.size(), seen.scores.size());
    for (size_t i = 0; i < seen.scores.size(); ++i) {
      const TokenScore &a = seen.scores[i], &b = alone.scores[i];
      ASSERT_EQ(a.token, b.token) << "score " << i;
      ASSERT_EQ(a.logprobs.logprob, b.logprobs.logprob) << "score " << i;
      ASSERT_EQ(a.logprobs.top, b.logprobs.top) << "score " << i;
      ASSERT_EQ(a.best, b.best) << "score " << i;
      ASSERT_EQ(a.entropy, b.entropy) << "score " << i;
      ASSERT_EQ(a.margin, b.margin) << "score " << i;
    }
    // Had it to be alone to get that?
    resumed_ += seen.finish->usage.cached_tokens > 0;
  }

  std::unique_ptr<LanguageModel> LoadSmall(int max_logit_rows) {
    ModelOptions options;
    options.max_batch_tokens = 64;
    options.max_logit_rows = max_logit_rows;
    options.threads = 1;
    options.max_context = kContext;
    if (GetParam() == "rat_plus") {
      options.choices.rat_plus_dials = {RatPlusDial{1, 0, 0}, RatPlusDial{4, 8, 6},
                                        RatPlusDial{16, 5, 6}, RatPlusDial{16, 0, 0}};
      options.choices.rat_plus_unadapted = true;
    }
    return Load(options);
  }

  // Of its own model: the other's may have a step in flight.
  std::unique_ptr<LanguageModel> model_, alone_model_;
  std::unique_ptr<Engine> alone_;
  int64_t resumed_ = 0;
};

TEST_P(EngineGoldenStormTest, EveryTextIsWhatItWouldBeAlone) {
  alone_model_ = LoadSmall(64);
  ASSERT_NE(alone_model_, nullptr);
  EngineOptions options;
  options.max_running = 1;
  options.max_batch_tokens = 64;
  options.max_context = kContext;
  options.prefix_cache = false;
  alone_ = Start(alone_model_.get(), options);
  StormCounts counts;
  int64_t loaded = 0, parks = 0, dropped = 0;
  for (int seed = 0; seed < kEngines && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    model_ = LoadSmall(/*max_logit_rows=*/8 + seed);
    Storm storm(seed, kContext, this, &counts);
    storm.Run(kOperations / kEngines, /*end=*/seed == 3 ? 4 : 0);
    const EngineStats stats = storm.stats();
    loaded += storm.moving().loaded();
    parks += stats.parking.parks;
    dropped += stats.cache.dropped;
  }
  EXPECT_GT(counts.completed, kOperations / 10);
  EXPECT_GT(resumed_, kOperations / 50);
  EXPECT_GT(counts.scored, kOperations / 50);
  EXPECT_GT(dropped, kOperations / 50);
  EXPECT_GT(loaded, 0);
  EXPECT_GT(parks, 0);
  if (GetParam() == "rat_plus") {
    EXPECT_GT(counts.coarser, kOperations / 50);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EngineGoldenStormTest, ::testing::ValuesIn(StateModels()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace packrat
