// How requests end, and what they leave.
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/engine_fixture.h"
#include "tests/runtime/fake_model.h"

namespace packrat {
namespace {

using ::testing::ElementsAre;

using EngineLifecycleTest = EngineTest;

TEST_F(EngineLifecycleTest, CancelInEveryState) {
  Start(Small());
  const auto expect_cancelled = [&](Consumer* c, bool admitted) {
    ASSERT_TRUE(c->Poll());
    ASSERT_TRUE(c->finish.has_value());
    EXPECT_EQ(c->finish->reason, FinishReason::kCancelled);
    EXPECT_TRUE(absl::IsCancelled(c->finish->status));
    EXPECT_EQ(c->admitted, admitted);
    ExpectAllFree();
  };
  {  // In the inbox.
    Consumer c;
    Submit(c.Make(1, RandomPrompt(&random_, 10), 10));
    engine_->Cancel(1);
    Step();
    expect_cancelled(&c, false);
  }
  {  // With its prompt half done, then decoding.
    for (int steps : {1, 2, 12}) {
      Consumer c;
      Submit(c.Make(1, RandomPrompt(&random_, 100), 100));
      for (int i = 0; i < steps; ++i) Step();
      engine_->Cancel(1);
      Step();
      expect_cancelled(&c, true);
      EXPECT_EQ(c.tokens.size(), steps < 4 ? 0u : 9u);
    }
  }
  {  // Waiting behind others, which go on.
    std::vector<Consumer> running(8);
    for (int i = 0; i < 8; ++i) Submit(running[i].Make(10 + i, RandomPrompt(&random_, 4), 50));
    Consumer c, next;
    Submit(c.Make(1, RandomPrompt(&random_, 10), 10));
    Submit(next.Make(2, RandomPrompt(&random_, 10), 10));
    Step();
    EXPECT_EQ(engine_->stats().waiting, 2);
    engine_->Cancel(1);
    Step();
    ASSERT_TRUE(c.Poll());
    EXPECT_EQ(c.finish->reason, FinishReason::kCancelled);
    EXPECT_FALSE(c.admitted);
    EXPECT_EQ(engine_->stats().waiting, 1);
    RunUntilIdle();
    for (Consumer& r : running) {
      r.Poll();
      EXPECT_EQ(r.finish->reason, FinishReason::kLength);
    }
    next.Poll();
    EXPECT_EQ(next.finish->reason, FinishReason::kLength);
    ExpectAllFree();
  }
  engine_->Cancel(12345);  // Unknown: nothing happens.
  EXPECT_FALSE(Step());
}

TEST_F(EngineLifecycleTest, DeadlinesInEveryState) {
  EngineOptions options = Small();
  options.max_running = 1;
  Start(options);
  Consumer running, waiting;
  Request request = running.Make(1, RandomPrompt(&random_, 10), 100);
  request.deadline = now_ + 5 * kStep;
  Submit(std::move(request));
  request = waiting.Make(2, RandomPrompt(&random_, 10), 100);
  request.deadline = now_ + 3 * kStep;
  Submit(std::move(request));
  Step();
  Step();
  waiting.Poll();
  EXPECT_FALSE(waiting.finish.has_value());
  Step();
  waiting.Poll();
  ASSERT_TRUE(waiting.finish.has_value());
  EXPECT_EQ(waiting.finish->reason, FinishReason::kDeadline);
  EXPECT_TRUE(absl::IsDeadlineExceeded(waiting.finish->status));
  EXPECT_FALSE(waiting.admitted);
  EXPECT_GE(waiting.finish->usage.queue_time, 3 * kStep);
  Step();
  running.Poll();
  EXPECT_FALSE(running.finish.has_value());
  Step();
  running.Poll();
  ASSERT_TRUE(running.finish.has_value());
  EXPECT_EQ(running.finish->reason, FinishReason::kDeadline);
  EXPECT_EQ(running.tokens.size(), 4u);
  ExpectAllFree();
}

TEST_F(EngineLifecycleTest, TimesAreMeasuredFromSubmission) {
  EngineOptions options = Small();
  options.max_running = 1;
  Start(options);
  Consumer first, second;
  Submit(first.Make(1, RandomPrompt(&random_, 4), 3));
  Submit(second.Make(2, RandomPrompt(&random_, 50), 2));
  const absl::Time submitted = now_;
  RunUntilIdle();  // Three steps for the first; two for the second's prompt, one more token.
  second.Poll();
  const Usage& usage = second.finish->usage;
  EXPECT_GE(usage.queue_time, 4 * kStep);
  EXPECT_GE(usage.time_to_first_token, 5 * kStep);
  EXPECT_GE(usage.total_time, 6 * kStep);
  EXPECT_EQ(now_ - submitted, 6 * kStep);
}

TEST_F(EngineLifecycleTest, ManyAreCancelledTogether) {
  constexpr int kMany = 20000;
  EngineOptions options = Small();
  options.max_queue = kMany;
  Start(options);
  std::vector<Consumer> c(kMany);
  for (int i = 0; i < kMany; ++i) Submit(c[i].Make(i, RandomPrompt(&random_, 4), 4));
  Step();
  for (int i = 0; i < kMany; ++i) {
    if (i % 1000 != 0) engine_->Cancel(i);
  }
  engine_->Cancel(kMany + 1);  // Unknown.
  RunUntilIdle();
  for (int i = 0; i < kMany; ++i) {
    c[i].Poll();
    ASSERT_TRUE(c[i].finish.has_value()) << i;
    ASSERT_EQ(c[i].finish->reason,
              i % 1000 == 0 ? FinishReason::kLength : FinishReason::kCancelled);
  }
  ExpectAllFree();
}

TEST_F(EngineLifecycleTest, ASequenceThatGoesBadFailsAlone) {
  for (int32_t bad : {FakeModel::kNotFiniteToken, FakeModel::kNanLogitsToken}) {
    Start(Small());
    Consumer good, broken, after;
    const auto prompt = RandomPrompt(&random_, 30);
    Submit(good.Make(1, prompt, 40));
    auto bad_prompt = RandomPrompt(&random_, 60);
    bad_prompt[59] = bad;
    Submit(broken.Make(2, bad_prompt, 40));
    for (int i = 0; i < 6; ++i) Step();
    broken.Poll();
    ASSERT_TRUE(broken.finish.has_value());
    EXPECT_EQ(broken.finish->reason, FinishReason::kError);
    EXPECT_EQ(broken.finish->status, absl::InternalError("the model produced a non-finite value"));
    EXPECT_TRUE(broken.tokens.empty());
    EXPECT_EQ(engine_->stats().running, 1);
    Submit(after.Make(3, prompt, 40));  // Gets the parts of the broken one.
    RunUntilIdle();
    good.Poll();
    after.Poll();
    EXPECT_EQ(good.tokens, model_->GreedyAfter(prompt, 40));
    EXPECT_EQ(after.tokens, good.tokens);
    ExpectAllFree();
  }
}

TEST_F(EngineLifecycleTest, DrainFinishesWhatIsThereAndTakesNothingNew) {
  EngineOptions options = Small();
  options.max_running = 1;
  Start(options);
  Consumer running, queued, late;
  Submit(running.Make(1, RandomPrompt(&random_, 4), 20));
  Submit(queued.Make(2, RandomPrompt(&random_, 4), 20));
  Step();
  engine_->Drain();
  EXPECT_TRUE(absl::IsUnavailable(SubmitStatus(late.Make(3, RandomPrompt(&random_, 4), 20))));
  RunUntilIdle();
  running.Poll();
  queued.Poll();
  EXPECT_EQ(running.finish->reason, FinishReason::kLength);
  EXPECT_EQ(queued.finish->reason, FinishReason::kLength);
  EXPECT_FALSE(late.Poll());
}

TEST_F(EngineLifecycleTest, AbortEndsAllWithTheStatus) {
  EngineOptions options = Small();
  options.max_running = 1;
  Start(options);
  std::vector<Consumer> c(3);
  Submit(c[0].Make(0, RandomPrompt(&random_, 4), 20));
  Submit(c[1].Make(1, RandomPrompt(&random_, 4), 20));
  Step();
  Submit(c[2].Make(2, RandomPrompt(&random_, 4), 20));  // In the inbox.
  engine_->AbortAll(absl::UnavailableError("stopping"));
  Step();
  for (Consumer& consumer : c) {
    consumer.Poll();
    ASSERT_TRUE(consumer.finish.has_value());
    EXPECT_EQ(consumer.finish->reason, FinishReason::kError);
    EXPECT_EQ(consumer.finish->status, absl::UnavailableError("stopping"));
  }
  EXPECT_TRUE(engine_->idle());
  ExpectAllFree();
}

// The thread that steps may be held up between its look at the clock and the step.
TEST_F(EngineLifecycleTest, TimesAreNotNegativeWhereTheStepsClockIsBehind) {
  Start(Small());
  Consumer admitted, cancelled;
  Request request = admitted.Make(1, RandomPrompt(&random_, 4), 1);
  ASSERT_EQ(engine_->Submit(std::move(request), now_ + absl::Hours(1)), absl::OkStatus());
  request = cancelled.Make(2, RandomPrompt(&random_, 4), 1);
  ASSERT_EQ(engine_->Submit(std::move(request), now_ + absl::Hours(1)), absl::OkStatus());
  engine_->Cancel(2);
  RunUntilIdle();
  for (Consumer* c : {&admitted, &cancelled}) {
    c->Poll();
    ASSERT_TRUE(c->finish.has_value());
    const Usage& usage = c->finish->usage;
    for (absl::Duration time : {usage.queue_time, usage.time_to_first_token, usage.total_time}) {
      EXPECT_GE(time, absl::ZeroDuration());
      EXPECT_LT(time, absl::Minutes(30));
    }
  }
  EXPECT_GE(engine_->stats().time_to_first_token.sum(), 0);
}

TEST_F(EngineLifecycleTest, DestructionEndsWhatIsLeft) {
  Start(Small());
  Consumer c;
  Submit(c.Make(1, RandomPrompt(&random_, 4), 20));
  engine_.reset();
  c.Poll();
  ASSERT_TRUE(c.finish.has_value());
  EXPECT_TRUE(absl::IsUnavailable(c.finish->status));
}

TEST_F(EngineLifecycleTest, PriorityGoesFirst) {
  EngineOptions options = Small();
  options.max_running = 1;
  Start(options);
  std::vector<Consumer> c(4);
  const int priorities[] = {0, 0, 5, 5};
  for (int i = 0; i < 4; ++i) {
    Request request = c[i].Make(i, RandomPrompt(&random_, 4), 3);
    request.priority = priorities[i];
    Submit(std::move(request));
  }
  std::vector<int> order;
  std::set<int> done;
  while (!engine_->idle()) {
    Step();
    for (int i = 0; i < 4; ++i) {
      c[i].Poll();
      if (c[i].finish.has_value() && done.insert(i).second) order.push_back(i);
    }
  }
  EXPECT_THAT(order, ElementsAre(2, 3, 0, 1));
}

TEST_F(EngineLifecycleTest, ASlowReaderHoldsNothingButItsTokens) {
  Start(Small());
  Consumer slow, fast;
  const auto prompt = RandomPrompt(&random_, 4);
  Submit(slow.Make(1, prompt, 60));
  Submit(fast.Make(2, prompt, 60));
  while (!engine_->idle()) {
    Step();
    fast.Poll();
  }
  ExpectAllFree();
  EXPECT_TRUE(slow.Poll());
  EXPECT_EQ(slow.tokens, fast.tokens);
  EXPECT_TRUE(slow.finish.has_value());
  EXPECT_FALSE(slow.Poll());
}

}  // namespace
}  // namespace packrat
