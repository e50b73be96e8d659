// What the engine refuses: options at the start, requests at the door; and what it has room for.
#include <algorithm>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "runtime/retry_after.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/engine_fixture.h"
#include "tests/runtime/fake_model.h"

namespace packrat {
namespace {

using ::testing::HasSubstr;

using EngineAdmissionTest = EngineTest;

TEST_F(EngineAdmissionTest, QueueIsBounded) {
  EngineOptions options = Small();
  options.max_queue = 3;
  options.max_running = 1;
  Start(options);
  std::vector<Consumer> c(6);
  for (int i = 0; i < 3; ++i) Submit(c[i].Make(i, RandomPrompt(&random_, 4), 30));
  absl::Status status = SubmitStatus(c[3].Make(3, RandomPrompt(&random_, 4), 30));
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_FALSE(c[3].Poll());
  Step();  // One runs: one place in the queue.
  EXPECT_EQ(engine_->stats().waiting, 2);
  Submit(c[4].Make(4, RandomPrompt(&random_, 4), 30));
  EXPECT_TRUE(absl::IsResourceExhausted(SubmitStatus(c[5].Make(5, RandomPrompt(&random_, 4), 30))));
  RunUntilIdle();
  ExpectAllFree();
}

// A tenth of what the queue takes: of the last that got through it, or of the one that waits now.
TEST_F(EngineAdmissionTest, AFullQueueSaysWhenToComeAgain) {
  EngineOptions options = Small();
  options.max_queue = 1;
  options.max_running = 1;
  Start(options);
  std::vector<Consumer> c(6);
  const auto refused = [&](int i) {
    const absl::Status status = SubmitStatus(c[i].Make(i, RandomPrompt(&random_, 4), 3));
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    return RetryAfter(status);
  };
  Submit(c[0].Make(0, RandomPrompt(&random_, 4), 3));
  EXPECT_EQ(refused(1), kShortestRetryAfter);
  Step();
  Submit(c[2].Make(2, RandomPrompt(&random_, 4), 3));
  Step();  // The engine has seen it.
  now_ += absl::Seconds(40);
  EXPECT_NEAR(absl::ToDoubleSeconds(refused(3)), 4, 0.1);
  for (int i = 0; i < 3; ++i) Step();
  EXPECT_EQ(engine_->stats().waiting, 0);
  Submit(c[4].Make(4, RandomPrompt(&random_, 4), 3));
  EXPECT_NEAR(absl::ToDoubleSeconds(refused(5)), 4, 0.1);
  RunUntilIdle();
}

// What comes while a step runs counts at once.
TEST_F(EngineAdmissionTest, QueueIsBoundedDuringAStep) {
  EngineOptions options = Small();
  options.max_queue = 3;
  options.max_running = 1;
  Start(options);
  std::vector<Consumer> c(6);
  Submit(c[0].Make(0, RandomPrompt(&random_, 4), 30));
  Submit(c[1].Make(1, RandomPrompt(&random_, 4), 30));
  model_->on_forward = [&](const Batch&) {
    Submit(c[2].Make(2, RandomPrompt(&random_, 4), 30));
    model_->on_forward = nullptr;
  };
  Step();  // The first runs, the second waits, and the third has come meanwhile.
  EXPECT_EQ(engine_->stats().waiting, 2);
  Submit(c[3].Make(3, RandomPrompt(&random_, 4), 30));
  EXPECT_EQ(engine_->stats().waiting, 3);
  EXPECT_TRUE(absl::IsResourceExhausted(SubmitStatus(c[4].Make(4, RandomPrompt(&random_, 4), 30))));
  RunUntilIdle();
  ExpectAllFree();
}

TEST_F(EngineAdmissionTest, WhatCanNeverFitIsRefusedWithTheNumbers) {
  EngineOptions options = Small();
  options.max_context = 128;
  Start(options);
  Consumer c;
  absl::Status status = SubmitStatus(c.Make(1, RandomPrompt(&random_, 128), 1));
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("prompt has 128 tokens; range [1, 127]"));
  status = SubmitStatus(c.Make(1, RandomPrompt(&random_, 100), 29));
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("max_tokens is 29; range [1, 28]"));
  EXPECT_FALSE(c.Poll());
  EXPECT_TRUE(engine_->idle());
  Submit(c.Make(1, RandomPrompt(&random_, 100), 28));
  RunUntilIdle();
  c.Poll();
  EXPECT_EQ(c.tokens.size(), 28u);
}

TEST_F(EngineAdmissionTest, StateTooSmallForOneSequenceIsRefusedAtStart) {
  FakeModel model;
  EngineOptions options = Small();
  options.state_bytes = static_cast<int64_t>(model.state_layout().SequenceBytes(512)) - 1;
  auto engine = Engine::Create(&model, nullptr, options);
  EXPECT_TRUE(absl::IsResourceExhausted(engine.status()));
  EXPECT_THAT(std::string(engine.status().message()),
              HasSubstr("must hold at least one sequence of max_context (512) tokens"));
  options.state_bytes += 1;
  EXPECT_TRUE(Engine::Create(&model, nullptr, options).ok());
}

TEST_F(EngineAdmissionTest, OptionsAreChecked) {
  FakeModel model;
  const auto refused = [&](void (*change)(EngineOptions*)) {
    EngineOptions options = Small();
    change(&options);
    const absl::Status status = Engine::Create(&model, nullptr, options).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  EXPECT_EQ(refused([](EngineOptions* o) { o->max_running = 0; }),
            "max_running is 0; range [1, 64]");
  EXPECT_EQ(refused([](EngineOptions* o) { o->max_queue = 0; }),
            "max_queue is 0; range [1, 1000000]");
  EXPECT_EQ(refused([](EngineOptions* o) { o->max_batch_tokens = 15; }),
            "max_batch_tokens is 15; range [16, 64]");
  EXPECT_EQ(refused([](EngineOptions* o) { o->max_batch_tokens = 65; }),
            "max_batch_tokens is 65; range [16, 64]");
  EXPECT_EQ(refused([](EngineOptions* o) {
              o->max_running = 33;
              o->max_batch_tokens = 32;
            }),
            "max_batch_tokens is 32; range [33, 64]");
  EXPECT_EQ(refused([](EngineOptions* o) { o->max_context = 513; }),
            "max_context is 513; range [2, 512]");
  EXPECT_EQ(refused([](EngineOptions* o) { o->inter_token_time = absl::Nanoseconds(-1); }),
            "inter_token_time is -1ns; range [0, inf]");
}

// Memory for about three of the longest: they run three at a time, all to the end.
TEST_F(EngineAdmissionTest, AdmissionToTheLastPage) {
  FakeModel probe;
  EngineOptions options = Small();
  options.state_bytes = 3 * static_cast<int64_t>(probe.state_layout().SequenceBytes(512));
  Start(options);
  std::vector<Consumer> c(7);
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < 7; ++i) {
    prompts.push_back(RandomPrompt(&random_, 400 + i));
    Submit(c[i].Make(i, prompts[i], 112 - i));  // Exactly max_context.
  }
  int most = 0;
  double fullest = 0;
  while (!engine_->idle()) {
    ASSERT_TRUE(Step());
    most = std::max(most, engine_->stats().running);
    fullest = std::max(fullest, engine_->stats().state_utilization);
  }
  EXPECT_GE(most, 2);
  EXPECT_LE(most, 3);
  EXPECT_GT(fullest, 0.6);
  for (int i = 0; i < 7; ++i) {
    c[i].Poll();
    EXPECT_EQ(c[i].tokens, model_->GreedyAfter(prompts[i], 112 - i));
  }
  ExpectAllFree();
}

}  // namespace
}  // namespace packrat
