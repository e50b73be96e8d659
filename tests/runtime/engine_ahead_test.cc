// One step is started before the results of the step before it are taken: the same texts, and what
// was started in vain leaves no trace.
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/engine_fixture.h"
#include "tests/runtime/fake_model.h"

namespace packrat {
namespace {

using ::testing::HasSubstr;

class EngineAheadTest : public EngineTest {
 protected:
  void StartAhead(const EngineOptions& options, bool ahead = true) {
    FakeModel::Options model;
    model.ahead = ahead;
    Start(options, model);
  }
  int InFlight() const { return model_->steps_started() - model_->steps_waited_for(); }
};

TEST_F(EngineAheadTest, OneStepIsInFlight) {
  StartAhead(Small());
  Consumer c;
  const auto prompt = RandomPrompt(&random_, 4);
  Submit(c.Make(1, prompt, 4));
  for (const int tokens : {0, 1, 2, 3}) {
    EXPECT_TRUE(Step());
    c.Poll();
    EXPECT_EQ(static_cast<int>(c.tokens.size()), tokens);
    EXPECT_EQ(InFlight(), 1);
    EXPECT_FALSE(engine_->idle());
  }
  EXPECT_TRUE(Step());  // The length is known: nothing is started in vain.
  c.Poll();
  EXPECT_EQ(c.tokens, model_->GreedyAfter(prompt, 4));
  EXPECT_EQ(InFlight(), 0);
  EXPECT_EQ(model_->steps_started(), 4);
  EXPECT_EQ(c.finish->usage.solver.solves, 4 + 3);
  EXPECT_TRUE(engine_->idle());
  EXPECT_FALSE(Step());
  ExpectAllFree();
}

// An end that nobody foresaw: what was started in vain is waited for before the engine rests.
TEST_F(EngineAheadTest, RestsWithNothingInFlight) {
  StartAhead(Small());
  Consumer c;
  const auto prompt = RandomPrompt(&random_, 4);
  Request request = c.Make(1, prompt, 40);
  request.stop.ids = {model_->GreedyAfter(prompt, 3).back()};
  Submit(std::move(request));
  while (!c.finish.has_value()) {
    ASSERT_TRUE(Step());
    c.Poll();
  }
  EXPECT_EQ(InFlight(), 1);
  EXPECT_FALSE(engine_->idle());
  EXPECT_TRUE(Step());
  EXPECT_EQ(InFlight(), 0);
  EXPECT_TRUE(engine_->idle());
  ExpectAllFree();
}

// Whoever stops an idle engine's thread must not take the last notification away with it.
TEST_F(EngineAheadTest, WhoReadsIsToldBeforeTheEngineIsIdle) {
  for (const bool ahead : {false, true}) {
    StartAhead(Small(), ahead);
    Consumer c;
    c.outbox = std::make_shared<Outbox>([&c] { c.Poll(); });
    Submit(c.Make(1, RandomPrompt(&random_, 4), 3));
    while (!engine_->idle()) EXPECT_TRUE(Step());
    EXPECT_TRUE(c.finish.has_value()) << "ahead " << ahead;
  }
}

// Everything that a request may ask for, in company that comes and goes.
TEST_F(EngineAheadTest, TheTextsAreThoseOfStepAfterStep) {
  struct Text {
    std::vector<int32_t> tokens;
    std::vector<float> logprobs;
    FinishReason reason;
    int solves;
    bool operator==(const Text& o) const {
      return tokens == o.tokens && logprobs == o.logprobs && reason == o.reason &&
             solves == o.solves;
    }
  };
  std::vector<Text> texts[2];
  int ends = 0;
  for (const bool ahead : {false, true}) {
    EngineOptions options = Small();
    options.max_running = 5;
    StartAhead(options, ahead);
    std::mt19937_64 random(3);
    std::vector<Consumer> consumers(60);
    for (size_t i = 0; i < consumers.size(); ++i) {
      Request request = consumers[i].Make(i, RandomPrompt(&random, 1 + random() % 60), 40);
      request.sampling.temperature = i % 4 == 0 ? 0.0f : 1.0f;
      request.sampling.seed = i;
      if (i % 3 == 0) request.sampling.num_logprobs = 2;
      request.sampling.frequency_penalty = i % 10 == 9 ? 0.4f : 0.0f;
      request.stop.ignore_eos = i % 2 == 0;
      request.stop.ids = {static_cast<int32_t>(random() % 80), 11, 12};
      request.stop.min_tokens = i % 5 == 0 ? 15 : 0;
      if (i % 7 == 3) request.prompt.back() = FakeModel::kNotFiniteToken;
      if (i % 7 == 4) request.prompt.back() = FakeModel::kNanLogitsToken;
      Submit(std::move(request));
      for (int steps = random() % 3; steps > 0; --steps) Step();
    }
    RunUntilIdle();
    for (Consumer& c : consumers) {
      c.Poll();
      ASSERT_TRUE(c.finish.has_value());
      std::vector<float> logprobs;
      for (const TokenLogprobs& l : c.logprobs) logprobs.push_back(l.logprob);
      texts[ahead].push_back(
          {c.tokens, logprobs, c.finish->reason, static_cast<int>(c.finish->usage.solver.solves)});
      ends += c.finish->reason == FinishReason::kStopId || c.finish->reason == FinishReason::kEos;
    }
    ExpectAllFree();
    EXPECT_EQ(InFlight(), 0);
  }
  EXPECT_GT(ends, 20);
  for (size_t i = 0; i < texts[0].size(); ++i) EXPECT_TRUE(texts[0][i] == texts[1][i]) << i;
}

TEST_F(EngineAheadTest, APenaltyNeedsTheTokenFirst) {
  StartAhead(Small());
  Consumer penalized, other;
  Request request = penalized.Make(1, RandomPrompt(&random_, 4), 10);
  request.sampling.presence_penalty = 0.5f;
  Submit(std::move(request));
  Submit(other.Make(2, RandomPrompt(&random_, 4), 30));
  int most = 0;
  model_->on_forward = [&](const Batch& batch) {
    most = std::max(most, InFlight());
    if (batch.num_spans == 2) {
      EXPECT_EQ(InFlight(), 1);  // Only the one that is starting.
    }
  };
  RunUntilIdle();
  EXPECT_EQ(most, 2);
  penalized.Poll();
  other.Poll();
  EXPECT_EQ(penalized.tokens.size(), 10u);
  EXPECT_EQ(other.tokens.size(), 30u);
}

TEST_F(EngineAheadTest, CancelledAndExpiredInFlight) {
  EngineOptions options = Small();
  options.max_running = 2;
  StartAhead(options);
  Consumer cancelled, expired, next, last;
  const auto prompt = RandomPrompt(&random_, 20);
  Submit(cancelled.Make(1, RandomPrompt(&random_, 5), 100));
  Request request = expired.Make(2, RandomPrompt(&random_, 5), 100);
  request.deadline = now_ + 8 * kStep;
  Submit(std::move(request));
  Submit(next.Make(3, prompt, 20));
  Submit(last.Make(4, prompt, 20));
  for (int i = 0; i < 5; ++i) Step();
  engine_->Cancel(1);
  Step();
  cancelled.Poll();
  EXPECT_EQ(cancelled.tokens.size(), 4u);  // Of five started; the fifth was in flight.
  EXPECT_EQ(cancelled.finish->reason, FinishReason::kCancelled);
  RunUntilIdle();
  expired.Poll();
  EXPECT_EQ(expired.finish->reason, FinishReason::kDeadline);
  for (Consumer* c : {&next, &last}) {
    c->Poll();
    EXPECT_EQ(c->tokens, model_->GreedyAfter(prompt, 20));
  }
  ExpectAllFree();
}

TEST_F(EngineAheadTest, ALostDeviceEndsWhatIsInFlight) {
  for (const bool at_start : {true, false}) {
    StartAhead(Small());
    Consumer c;
    Submit(c.Make(1, RandomPrompt(&random_, 4), 100));
    for (int i = 0; i < 5; ++i) Step();
    (at_start ? model_->start_status : model_->wait_status) = absl::InternalError("it burns");
    EXPECT_TRUE(Step());
    c.Poll();
    EXPECT_EQ(c.tokens.size(), 4u);
    ASSERT_TRUE(c.finish.has_value());
    EXPECT_TRUE(absl::IsUnavailable(c.finish->status));
    EXPECT_THAT(std::string(c.finish->status.message()), HasSubstr("it burns"));
    ExpectAllFree();
    EXPECT_TRUE(engine_->idle());
    EXPECT_FALSE(Step());
  }
}

TEST_F(EngineAheadTest, TheEngineWaitsForItsDeviceBeforeItGoes) {
  StartAhead(Small());
  Consumer c;
  Submit(c.Make(1, RandomPrompt(&random_, 4), 100));
  for (int i = 0; i < 5; ++i) Step();
  EXPECT_EQ(InFlight(), 1);
  engine_.reset();
  EXPECT_EQ(InFlight(), 0);
  c.Poll();
  EXPECT_TRUE(absl::IsUnavailable(c.finish->status));
}

}  // namespace
}  // namespace packrat
