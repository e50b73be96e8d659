// Sequences make way for others and go on later, with the same tokens and nothing computed twice.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/engine_fixture.h"
#include "tests/tools/allocations.h"

namespace packrat {
namespace {

using Text = std::vector<int32_t>;

class EngineParkTest : public EngineTest, public ::testing::WithParamInterface<bool> {
 protected:
  void StartParking(int max_running, int64_t park_memory = int64_t{1} << 30) {
    engine_.reset();  // Before its model.
    FakeModel::Options model;
    model.ahead = GetParam();
    EngineOptions options = Small();
    options.max_running = max_running;
    options.park_memory = park_memory;
    Start(options, model);
  }
  void Submit(Consumer* consumer, uint64_t id, const Text& prompt, int tokens, int priority = 0) {
    Request request = consumer->Make(id, prompt, tokens);
    request.priority = priority;
    EngineTest::Submit(std::move(request));
  }
  void Steps(int count) {
    for (int i = 0; i < count; ++i) ASSERT_TRUE(Step());
  }
  EngineStats::Parking parking() { return engine_->stats().parking; }
  void ExpectText(Consumer* consumer, const Text& prompt, int tokens) {
    consumer->Poll();
    ASSERT_TRUE(consumer->finish.has_value());
    EXPECT_EQ(consumer->finish->status, absl::OkStatus());
    EXPECT_EQ(consumer->tokens, model_->GreedyAfter(prompt, tokens));
  }
  void ExpectNothingParked() {
    ExpectAllFree();
    EXPECT_EQ(parking().sequences, 0);
    EXPECT_EQ(parking().bytes, 0);
  }
};

TEST_P(EngineParkTest, AHigherPriorityHasThePlaceForAsLongAsItTakes) {
  StartParking(1);
  Consumer low, high;
  const Text prompt = RandomPrompt(&random_, 21), other = RandomPrompt(&random_, 5);
  Submit(&low, 1, prompt, 70);
  Steps(50);
  Submit(&high, 2, other, 10, /*priority=*/5);
  Step();
  EXPECT_EQ(parking().parks, 1);
  EXPECT_EQ(parking().sequences, 1);
  EXPECT_GT(parking().bytes, 0);
  EXPECT_EQ(engine_->stats().waiting, 1);
  EXPECT_EQ(engine_->stats().running, 1);
  while (!high.finish.has_value()) {
    ASSERT_TRUE(Step());
    high.Poll();
    low.Poll();
    EXPECT_FALSE(low.finish.has_value());
  }
  RunUntilIdle();
  ExpectText(&high, other, 10);
  ExpectText(&low, prompt, 70);
  EXPECT_GE(low.finish->usage.parked_time, 8 * kStep);
  EXPECT_EQ(high.finish->usage.parked_time, absl::ZeroDuration());
  EXPECT_LT(low.finish->usage.queue_time, 2 * kStep);
  // Each token once.
  EXPECT_EQ(engine_->stats().prompt_tokens, 21 + 5);
  EXPECT_EQ(engine_->stats().generated_tokens, 70 + 10);
  EXPECT_EQ(parking().parks, 1);
  EXPECT_EQ(parking().resumes, 1);
  EXPECT_GE(parking().time.sum(), 0.08);
  ExpectNothingParked();
}

// At each place in its text, in the middle of its prompt too: also where a block has just ended,
// where a snapshot was just made, and where a text of the same beginning runs beside it.
TEST_P(EngineParkTest, AnywhereInItsText) {
  StartParking(2);
  uint64_t id = 1;
  for (int steps = 1; steps < 40; ++steps) {
    SCOPED_TRACE(steps);
    Consumer same, low, high[2];
    const Text prompt = RandomPrompt(&random_, 100);
    Text longer = prompt;
    for (int32_t token : RandomPrompt(&random_, 1 + steps % 3)) longer.push_back(token);
    Submit(&same, id++, prompt, 40);
    Submit(&low, id++, longer, 40);
    Steps(steps);
    for (Consumer& one : high) Submit(&one, id++, {5, 6}, 3, /*priority=*/1 + steps % 2);
    RunUntilIdle();
    ExpectText(&same, prompt, 40);
    ExpectText(&low, longer, 40);
    for (Consumer& one : high) ExpectText(&one, {5, 6}, 3);
  }
  EXPECT_GT(parking().parks, 50);
  ExpectNothingParked();
}

TEST_P(EngineParkTest, MakesRoomInMemory) {
  FakeModel::Options model;
  model.ahead = GetParam();
  EngineOptions options = Small();
  options.park_memory = int64_t{1} << 30;
  options.state_bytes = static_cast<int64_t>(FakeModel().state_layout().SequenceBytes(512)) * 3 / 2;
  Start(options, model);
  Consumer low, high;
  const Text prompt = RandomPrompt(&random_, 50), other = RandomPrompt(&random_, 60);
  Submit(&low, 1, prompt, 400);
  Steps(50);
  Submit(&high, 2, other, 350, /*priority=*/1);
  RunUntilIdle();
  EXPECT_EQ(parking().parks, 1);
  ExpectText(&high, other, 350);
  ExpectText(&low, prompt, 400);
  ExpectNothingParked();
}

TEST_P(EngineParkTest, ADeadlineIsMet) {
  for (const bool parks : {true, false}) {
    StartParking(1, parks ? int64_t{1} << 30 : 0);
    Consumer low, soon;
    const Text prompt = RandomPrompt(&random_, 4);
    Submit(&low, 1, prompt, 200);
    Steps(40);
    Request request = soon.Make(2, prompt, 20);
    request.deadline = now_ + 60 * kStep;
    EngineTest::Submit(std::move(request));
    RunUntilIdle();
    soon.Poll();
    EXPECT_EQ(soon.finish->reason, parks ? FinishReason::kLength : FinishReason::kDeadline);
    EXPECT_EQ(parking().parks, parks ? 1 : 0);
    ExpectText(&low, prompt, 200);
    ExpectNothingParked();
  }
}

// A flood of a higher priority: the low one gets on, and is not parked at every turn.
TEST_P(EngineParkTest, AFloodDoesNotStarveIt) {
  StartParking(1);
  Consumer low;
  const Text prompt = RandomPrompt(&random_, 4);
  std::vector<std::unique_ptr<Consumer>> flood;
  Submit(&low, 1, prompt, 150, /*priority=*/-2);
  for (int steps = 0; !low.finish.has_value(); ++steps) {
    ASSERT_LT(steps, 1500);
    if (engine_->stats().waiting < 4) {
      flood.push_back(std::make_unique<Consumer>());
      Submit(flood.back().get(), 100 + steps, {7}, 3);
    }
    Step();
    low.Poll();
  }
  ExpectText(&low, prompt, 150);
  EXPECT_GE(parking().parks, 2);
  EXPECT_LE(parking().parks, 150 / kParkTokens);
  RunUntilIdle();
  ExpectNothingParked();
}

TEST_P(EngineParkTest, WhatEndsWhileItIsParkedLeavesNothing) {
  StartParking(1);
  enum { kCancel, kExpire, kAbort, kLost };
  for (const int how : {kCancel, kExpire, kAbort, kLost}) {
    SCOPED_TRACE(how);
    Consumer low, high;
    const Text prompt = RandomPrompt(&random_, 40);
    Request request = low.Make(1, prompt, 100);
    if (how == kExpire) request.deadline = now_ + 70 * kStep;
    EngineTest::Submit(std::move(request));
    Steps(40);
    Submit(&high, 2, {5, 6}, 100, /*priority=*/5);
    Steps(2);
    EXPECT_EQ(parking().sequences, 1);
    if (how == kCancel) engine_->Cancel(1);
    if (how == kAbort) engine_->AbortAll(absl::UnavailableError("enough"));
    if (how == kLost) model_->wait_status = absl::InternalError("it burns");
    while (!low.finish.has_value()) {
      ASSERT_TRUE(Step());
      low.Poll();
    }
    EXPECT_EQ(parking().sequences, 0);
    EXPECT_EQ(parking().bytes, 0);
    EXPECT_EQ(low.finish->reason, how == kCancel   ? FinishReason::kCancelled
                                  : how == kExpire ? FinishReason::kDeadline
                                                   : FinishReason::kError);
    EXPECT_GT(low.finish->usage.parked_time, absl::ZeroDuration());
    EXPECT_EQ(low.tokens, model_->GreedyAfter(prompt, static_cast<int>(low.tokens.size())));
    RunUntilIdle();
    ExpectNothingParked();
  }
}

// Penalties, log-probabilities, stop ids and what is drawn go on as if nothing had been.
TEST_P(EngineParkTest, SamplingGoesOn) {
  std::vector<Consumer> ends[2];  // Without and with parking.
  for (const bool parks : {false, true}) {
    StartParking(parks ? 1 : 8);
    std::vector<Consumer> consumers(6);
    std::mt19937_64 random(5);
    for (int i = 0; i < 6; ++i) {
      Request request = consumers[i].Make(i, RandomPrompt(&random, 10 + 20 * i), 80);
      request.sampling.temperature = 1.0f;
      request.sampling.seed = i;
      request.sampling.num_logprobs = 2;
      request.sampling.frequency_penalty = i % 2 ? 0.4f : 0.0f;
      request.sampling.repetition_penalty = i % 3 ? 1.0f : 1.3f;
      request.stop.min_tokens = 70;
      request.stop.ids = {9, 10, 11, 12, 13};
      request.priority = i;
      EngineTest::Submit(std::move(request));
      if (parks) Steps(45);
    }
    RunUntilIdle();
    if (parks) {
      EXPECT_GE(parking().parks, 3);
    } else {
      EXPECT_EQ(parking().parks, 0);
    }
    for (Consumer& consumer : consumers) consumer.Poll();
    ends[parks] = std::move(consumers);
  }
  for (int i = 0; i < 6; ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(ends[0][i].tokens, ends[1][i].tokens);
    EXPECT_EQ(ends[0][i].finish->reason, ends[1][i].finish->reason);
    ASSERT_EQ(ends[0][i].logprobs.size(), ends[1][i].logprobs.size());
    for (size_t t = 0; t < ends[0][i].logprobs.size(); ++t) {
      EXPECT_EQ(ends[0][i].logprobs[t].logprob, ends[1][i].logprobs[t].logprob);
      EXPECT_EQ(ends[0][i].logprobs[t].top, ends[1][i].logprobs[t].top);
    }
  }
}

TEST_P(EngineParkTest, ScoresGoOn) {
  const Text text = RandomPrompt(&random_, 300);
  std::vector<TokenScore> scores[2];
  for (const bool parks : {false, true}) {
    StartParking(1);
    Consumer low, high;
    Request request = low.Make(1, text, 0);
    request.score_from = 50;
    EngineTest::Submit(std::move(request));
    Steps(4);
    if (parks) Submit(&high, 2, {5, 6}, 3, /*priority=*/5);
    RunUntilIdle();
    EXPECT_EQ(parking().parks, parks ? 1 : 0);
    low.Poll();
    EXPECT_EQ(low.finish->reason, FinishReason::kLength);
    scores[parks] = low.scores;
  }
  ASSERT_EQ(scores[0].size(), 250u);
  ASSERT_EQ(scores[1].size(), 250u);
  for (int i = 0; i < 250; ++i) {
    ASSERT_EQ(scores[0][i].token, scores[1][i].token);
    ASSERT_EQ(scores[0][i].logprobs.logprob, scores[1][i].logprobs.logprob);
  }
}

// Those that wait for its prompt wait on, and begin with what it leaves.
TEST_P(EngineParkTest, TheFirstOfAGroup) {
  StartParking(2);
  const Text prompt = RandomPrompt(&random_, 200);
  std::vector<Consumer> group(3);
  std::vector<Request> requests;
  for (int i = 0; i < 3; ++i) {
    requests.push_back(group[i].Make(i, prompt, 40));
    requests[i].cache.snapshot_at = 192;
  }
  ASSERT_EQ(engine_->Submit(std::move(requests), now_), absl::OkStatus());
  Steps(3);
  std::vector<Consumer> high(2);
  for (int i = 0; i < 2; ++i) Submit(&high[i], 10 + i, {5, 6}, 50, /*priority=*/5);
  RunUntilIdle();
  EXPECT_GE(parking().parks, 1);
  for (Consumer& consumer : group) ExpectText(&consumer, prompt, 40);
  EXPECT_EQ(group[1].finish->usage.cached_tokens, 192);
  EXPECT_EQ(engine_->stats().prompt_tokens, 200 + 2 * 8 + 2 * 2);
  ExpectNothingParked();
}

// A tenant is charged for what it gets, however often it makes way: less while it is parked, and
// all of it in the end.
TEST_P(EngineParkTest, IsChargedOnce) {
  StartParking(1);
  const auto submit = [&](Consumer* consumer, uint64_t id, const std::string& tenant, int tokens,
                          int priority = 0) {
    Request request = consumer->Make(id, {5}, tokens);
    request.tenant = tenant;
    request.priority = priority;
    EngineTest::Submit(std::move(request));
  };
  Consumer before, first, second, other, high;
  submit(&before, 1, "b", 70);
  RunUntilIdle();
  submit(&first, 2, "a", 100);
  Steps(45);
  submit(&second, 3, "a", 10);
  submit(&other, 4, "b", 10);
  submit(&high, 5, "c", 3, /*priority=*/5);
  Step();
  ASSERT_EQ(parking().sequences, 1);
  while (!first.finish.has_value()) {  // a has had 46 tokens then, b 71.
    ASSERT_TRUE(Step());
    first.Poll();
    other.Poll();
    EXPECT_TRUE(other.tokens.empty());
  }
  while (!other.finish.has_value()) {  // And now a has had 101.
    ASSERT_TRUE(Step());
    other.Poll();
    second.Poll();
    EXPECT_TRUE(second.tokens.empty());
  }
  RunUntilIdle();
  ExpectNothingParked();
}

TEST_P(EngineParkTest, NotWithoutRoomForItsState) {
  for (const bool fits : {true, false}) {
    StartParking(1);
    Consumer low, high;
    const Text prompt = RandomPrompt(&random_, 30);
    Submit(&low, 1, prompt, 60);
    Steps(40);
    Submit(&high, 2, {5}, 5, /*priority=*/1);
    Step();
    const int64_t bytes = parking().bytes;
    EXPECT_GT(bytes, 0);
    StartParking(1, fits ? bytes : bytes - 1);
    Consumer again, waits;
    Submit(&again, 1, prompt, 60);
    Steps(40);
    Submit(&waits, 2, {5}, 5, /*priority=*/1);
    Step();
    EXPECT_EQ(parking().bytes, fits ? bytes : 0);
    RunUntilIdle();
    ExpectText(&again, prompt, 60);
    ExpectText(&waits, {5}, 5);
    ExpectNothingParked();
  }
}

// Whatever allocation is refused: nobody is parked then, and who runs goes on; and who was parked
// takes none to go on.
TEST_P(EngineParkTest, NotWithoutMemory) {
  int done_without = 0;
  bool failed = true;
  for (int n = 0; failed; ++n) {
    failed = false;
    for (const bool while_parked : {false, true}) {
      SCOPED_TRACE(::testing::Message() << n << " " << while_parked);
      StartParking(2);
      model_->on_forward = nullptr;
      Consumer low[2], high[2];
      const Text prompt = RandomPrompt(&random_, 30);
      for (int i = 0; i < 2; ++i) Submit(&low[i], i, prompt, 60 + i);
      Steps(40);
      for (int i = 0; i < 2; ++i) Submit(&high[i], 2 + i, {5}, 5, /*priority=*/1);
      if (while_parked) {
        Step();
        ASSERT_EQ(parking().parks, 2);
      }
      FailAllocation(n);
      for (int i = 0; i < (while_parked ? 8 : 1); ++i) engine_->Step(now_ += kStep);
      const bool refused = AllocationFailed();
      FailAllocation(-1);
      failed = failed || refused;
      done_without += refused && parking().parks < 2;
      ASSERT_EQ(engine_->CheckIntegrity(), absl::OkStatus());
      RunUntilIdle();
      for (int i = 0; i < 2; ++i) ExpectText(&low[i], prompt, 60 + i);
      for (Consumer& consumer : high) {
        consumer.Poll();
        ASSERT_TRUE(consumer.finish.has_value());
        EXPECT_TRUE(consumer.finish->status.ok() ||
                    absl::IsResourceExhausted(consumer.finish->status));
      }
      ExpectNothingParked();
    }
  }
  EXPECT_GT(done_without, 3);
}

INSTANTIATE_TEST_SUITE_P(Models, EngineParkTest, ::testing::Bool(), [](const auto& info) {
  return std::string(info.param ? "Ahead" : "StepByStep");
});

}  // namespace
}  // namespace packrat
