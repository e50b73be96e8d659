// States that leave the engine and come to it, beside what runs.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/saved_state.h"
#include "tests/runtime/engine_fixture.h"

namespace packrat {
namespace {

using Text = std::vector<int32_t>;

class EngineStateTest : public EngineTest {
 protected:
  absl::StatusOr<SavedState> Save(const Text& text, const StateSpace& space = {}) {
    absl::StatusOr<SavedState> saved = absl::UnknownError("not called");
    engine_->SaveState(space, text, max_bytes_,
                       [&](absl::StatusOr<SavedState> s) { saved = std::move(s); });
    Step();
    return saved;
  }
  absl::Status Load(const SavedState& state, const StateSpace& space = {}) {
    absl::Status status = absl::UnknownError("not called");
    engine_->LoadState(space, state, [&](const absl::Status& s) { status = s; });
    Step();
    return status;
  }
  // Runs a text to its end and gives it back with what was generated.
  Text Run(Text prompt, int count = 5) {
    Consumer consumer;
    Submit(consumer.Make(++last_id_, prompt, count));
    RunUntilIdle();
    consumer.Poll();
    EXPECT_EQ(consumer.tokens, model_->GreedyAfter(prompt, count));
    cached_tokens_ = consumer.finish->usage.cached_tokens;
    prompt.insert(prompt.end(), consumer.tokens.begin(), consumer.tokens.end());
    return prompt;
  }
  int64_t max_bytes_ = 1 << 30;
  uint64_t last_id_ = 0;
  int cached_tokens_ = 0;
};

TEST_F(EngineStateTest, WhatIsNotKeptIsSavedWithoutState) {
  Start(Small());
  const Text text = RandomPrompt(&random_, 50);
  auto saved = Save(text);
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->tokens, text);
  EXPECT_EQ(saved->position, 0);
  EXPECT_EQ(saved->parts, "");
  EXPECT_EQ(Load(*saved), absl::OkStatus());
  Run(text);
  EXPECT_EQ(cached_tokens_, 0);
}

TEST_F(EngineStateTest, ATextIsFoundWhereItWasLoadedAndNowhereElse) {
  Start(Small());
  const Text text = Run(RandomPrompt(&random_, 50));
  const auto saved = Save(text);
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->position, 54);
  EXPECT_EQ(Save(text, {"other", "", {}})->position, 0);
  EXPECT_EQ(Save(text, {"", "salt", {}})->position, 0);
  EXPECT_EQ(Save(text, {"", "", {1e-3f, 64}})->position, 0);

  Start(Small());
  EXPECT_EQ(Load(*saved, {"other", "", {}}), absl::OkStatus());
  Run(text);
  EXPECT_EQ(cached_tokens_, 0);
  Start(Small());
  EXPECT_EQ(Load(*saved), absl::OkStatus());
  EXPECT_EQ(Load(*saved), absl::OkStatus());  // Again: it is there.
  EXPECT_EQ(engine_->stats().cache.snapshots, 1);
  Run(text);
  EXPECT_EQ(cached_tokens_, 54);
}

TEST_F(EngineStateTest, ALargeStateIsNotEvenRead) {
  Start(Small());
  const Text text = Run(RandomPrompt(&random_, 50));
  max_bytes_ = static_cast<int64_t>(Save(text)->parts.size());
  EXPECT_EQ(Save(text)->position, 54);
  --max_bytes_;
  const auto saved = Save(text);
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->tokens, text);
  EXPECT_EQ(saved->position, 0);
  EXPECT_EQ(saved->parts, "");
}

// Step by step, while others run and take what they need.
TEST_F(EngineStateTest, ComesAndGoesWhileOthersRun) {
  EngineOptions options = Small();
  Start(options);
  const Text text = Run(RandomPrompt(&random_, 70));
  const SavedState saved = *Save(text);
  options.state_bytes = 3 * static_cast<int64_t>(model_->state_layout().SequenceBytes(512));
  Start(options);
  std::vector<std::unique_ptr<Consumer>> others;
  std::vector<Text> prompts;
  int loaded = 0, refused = 0, found = 0;
  for (int i = 0; i < 60; ++i) {
    prompts.push_back(RandomPrompt(&random_, 1 + random_() % 120));
    others.push_back(std::make_unique<Consumer>());
    Submit(others.back()->Make(++last_id_, prompts.back(), 20));
    for (int steps = random_() % 8; steps > 0; --steps) Step();
    const absl::Status status = Load(saved);
    loaded += status.ok() ? 1 : 0;
    refused += absl::IsResourceExhausted(status) ? 1 : 0;
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    const auto again = Save(text);
    ASSERT_TRUE(again.ok()) << again.status();
    // Whoever was admitted since may have needed its room.
    found += again->position > 0 ? 1 : 0;
    EXPECT_TRUE(again->position == 0 || again->parts == saved.parts);
  }
  RunUntilIdle();
  EXPECT_GE(loaded, found);
  EXPECT_GT(found, 0);
  EXPECT_GT(refused, 0);
  for (size_t i = 0; i < others.size(); ++i) {
    others[i]->Poll();
    EXPECT_EQ(others[i]->tokens, model_->GreedyAfter(prompts[i], 20));
  }
  EXPECT_EQ(Load(saved), absl::OkStatus());
  Run(text);
  EXPECT_EQ(cached_tokens_, saved.position);
  ExpectAllFree();
}

TEST_F(EngineStateTest, WithoutACacheTextsComeAndGoAlone) {
  Start(Small());
  const Text text = Run(RandomPrompt(&random_, 50));
  const SavedState saved = *Save(text);
  EngineOptions options = Small();
  options.prefix_cache = false;
  Start(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(Load(saved)));
  EXPECT_EQ(Save(text)->position, 0);
}

TEST_F(EngineStateTest, NobodyWaitsForAnEngineThatIsGone) {
  Start(Small());
  const SavedState saved = *Save(Run(RandomPrompt(&random_, 50)));
  absl::Status status;
  engine_->LoadState({}, saved, [&](const absl::Status& s) { status = s; });
  engine_.reset();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;

  Start(Small());
  model_->wait_status = absl::InternalError("cudaErrorIllegalAddress");
  Consumer consumer;
  Submit(consumer.Make(1, RandomPrompt(&random_, 4), 100));
  Step();
  EXPECT_TRUE(absl::IsUnavailable(Load(saved)));
  EXPECT_TRUE(absl::IsUnavailable(Save(saved.tokens).status()));
}

}  // namespace
}  // namespace packrat
