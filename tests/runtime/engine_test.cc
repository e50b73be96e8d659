// The texts that the engine gives.
#include "runtime/engine.h"

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/engine_fixture.h"
#include "tests/runtime/fake_model.h"

namespace packrat {
namespace {

using ::testing::ElementsAre;

TEST_F(EngineTest, GreedyTextIsTheModels) {
  Start(Small());
  Consumer c;
  const auto prompt = RandomPrompt(&random_, 50);
  Submit(c.Make(1, prompt, 40));
  RunUntilIdle();
  ASSERT_TRUE(c.Poll());
  EXPECT_EQ(c.tokens, model_->GreedyAfter(prompt, 40));
  ASSERT_TRUE(c.finish.has_value());
  EXPECT_EQ(c.finish->reason, FinishReason::kLength);
  EXPECT_EQ(c.finish->status, absl::OkStatus());
  EXPECT_EQ(c.finish->usage.prompt_tokens, 50);
  EXPECT_EQ(c.finish->usage.completion_tokens, 40);
  // All but the last generated token went through the model.
  EXPECT_EQ(c.finish->usage.solver.solves, 50 + 39);
  EXPECT_EQ(c.finish->usage.solver.steps, 2 * (50 + 39));
  EXPECT_TRUE(c.admitted);
  ExpectAllFree();
  const EngineStats stats = engine_->stats();
  EXPECT_EQ(stats.prompt_tokens, 50);
  EXPECT_EQ(stats.generated_tokens, 40);
  EXPECT_EQ(stats.steps, 2 + 39);  // 50 prompt tokens in two pieces, then decoding.
}

// Alone or in company, in pieces of any size, with any mix of layers: the same text.
TEST_F(EngineTest, TextDoesNotDependOnCompanyOrBudget) {
  FakeModel::Options kinds[5];
  kinds[1].mesa = false;
  kinds[2].window = kinds[2].full = false;
  kinds[3].rat = false;
  kinds[4].window = kinds[4].full = kinds[4].rat = false;
  for (const FakeModel::Options& kind : kinds) {
    for (int budget : {16, 17, 23, 64}) {
      EngineOptions options = Small();
      options.max_running = 5;
      options.max_batch_tokens = budget;
      Start(options, kind);
      std::vector<Consumer> consumers(12);
      std::vector<std::vector<int32_t>> prompts;
      for (size_t i = 0; i < consumers.size(); ++i) {
        prompts.push_back(RandomPrompt(&random_, 1 + random_() % 90));
        Submit(consumers[i].Make(i, prompts[i], 1 + random_() % 40));
        for (int steps = random_() % 4; steps > 0; --steps) Step();
      }
      RunUntilIdle();
      for (size_t i = 0; i < consumers.size(); ++i) {
        ASSERT_TRUE(consumers[i].Poll());
        ASSERT_TRUE(consumers[i].finish.has_value());
        const int count = consumers[i].finish->usage.completion_tokens;
        EXPECT_EQ(consumers[i].tokens, model_->GreedyAfter(prompts[i], count)) << i;
      }
      ExpectAllFree();
    }
  }
}

TEST_F(EngineTest, SampledTextDependsOnSeedAlone) {
  std::vector<std::vector<int32_t>> texts;
  for (int round = 0; round < 3; ++round) {
    EngineOptions options = Small();
    options.max_batch_tokens = round == 2 ? 19 : 64;
    Start(options);
    std::mt19937_64 random(7);
    const auto prompt = RandomPrompt(&random, 33);
    std::vector<Consumer> others(round * 5);
    for (size_t i = 0; i < others.size(); ++i) {
      Submit(others[i].Make(100 + i, RandomPrompt(&random_, 20 + i), 30));
      Step();
    }
    Consumer a, b;
    for (Consumer* c : {&a, &b}) {
      Request request = c->Make(c == &a ? 1 : 2, prompt, 50);
      request.sampling.temperature = 1.5f;
      request.sampling.top_p = 0.95f;
      request.sampling.frequency_penalty = 0.1f;
      request.sampling.seed = c == &a ? 42 : 43;
      Submit(std::move(request));
    }
    RunUntilIdle();
    a.Poll();
    b.Poll();
    EXPECT_NE(a.tokens, b.tokens);
    texts.push_back(a.tokens);
  }
  EXPECT_EQ(texts[0].size(), 50u);
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_EQ(texts[0], texts[2]);
}

// What is drawn depends on the position in the whole text, not on where the prompt ended.
TEST_F(EngineTest, APromptWithHalfOfItsAnswerGoesOnAsTheWholeDid) {
  const auto answer = [&](const std::vector<int32_t>& prompt, int max_tokens) {
    Start(Small());
    Consumer consumer;
    Request request = consumer.Make(1, prompt, max_tokens);
    request.sampling.temperature = 1.5f;
    request.sampling.seed = 42;
    // Those that mean something to the fake model.
    request.sampling.banned_ids = {FakeModel::kEos, FakeModel::kNotFiniteToken,
                                   FakeModel::kNanLogitsToken};
    Submit(std::move(request));
    RunUntilIdle();
    consumer.Poll();
    return consumer.tokens;
  };
  const auto prompt = RandomPrompt(&random_, 21);
  const auto whole = answer(prompt, 40);
  ASSERT_EQ(whole.size(), 40u);
  for (const int known : {1, 17, 39}) {
    auto longer = prompt;
    longer.insert(longer.end(), whole.begin(), whole.begin() + known);
    EXPECT_EQ(answer(longer, 40 - known), std::vector<int32_t>(whole.begin() + known, whole.end()));
  }
}

// Rows are sampled by whichever thread is free, and none of them is mixed up with another.
TEST_F(EngineTest, TextsDoNotDependOnTheThreadsThatSample) {
  std::vector<std::vector<int32_t>> texts;
  for (int threads : {1, 4}) {
    FakeModel::Options model_options;
    model_options.threads = threads;
    Start(Small(), model_options);
    std::mt19937_64 random(7);
    std::vector<Consumer> consumers(8);
    for (int i = 0; i < 8; ++i) {
      Request request = consumers[i].Make(i, RandomPrompt(&random, 3 + i), 60);
      request.sampling.temperature = 1.0f;
      request.sampling.top_p = i % 2 == 0 ? 0.9f : 1.0f;
      request.sampling.top_k = i % 3 == 0 ? 20 : 0;
      request.sampling.min_p = i % 4 == 1 ? 0.1f : 0.0f;
      request.sampling.presence_penalty = i == 5 ? 1.0f : 0.0f;
      request.sampling.seed = i;
      Submit(std::move(request));
    }
    RunUntilIdle();
    for (Consumer& consumer : consumers) {
      consumer.Poll();
      EXPECT_EQ(consumer.tokens.size(), 60u);
      texts.push_back(consumer.tokens);
    }
  }
  for (int i = 0; i < 8; ++i) EXPECT_EQ(texts[i], texts[8 + i]) << i;
}

TEST_F(EngineTest, SolverOptionsReachTheModel) {
  Start(Small());
  Consumer c;
  const auto prompt = RandomPrompt(&random_, 5);
  Request request = c.Make(1, prompt, 1);
  request.solver.cg_max_steps = 17;
  Submit(std::move(request));
  RunUntilIdle();
  c.Poll();
  const auto logits = model_->LogitsAfter(prompt, 17);
  EXPECT_THAT(c.tokens,
              ElementsAre(std::max_element(logits.begin(), logits.end()) - logits.begin()));
}

TEST_F(EngineTest, DecodingNeverWaitsForALongPrompt) {
  Start(Small());
  Consumer decoding, prompt;
  Submit(decoding.Make(1, RandomPrompt(&random_, 4), 200));
  Step();
  Submit(prompt.Make(2, RandomPrompt(&random_, 300), 5));
  for (int step = 0; step < 30; ++step) {
    const size_t before = decoding.tokens.size();
    Step();
    decoding.Poll();
    EXPECT_EQ(decoding.tokens.size(), before + 1 + (step == 0 ? 1 : 0));
    int tokens = 0;
    for (const Span& span : spans_) tokens += span.num_tokens;
    EXPECT_LE(tokens, 32);
    EXPECT_EQ(spans_[0].num_tokens, 1);
  }
  prompt.Poll();
  EXPECT_EQ(prompt.tokens.size(), 5u);
}

// The random numbers go by the position in the text, not by how much of it was generated: a prompt
// that holds the first tokens of an answer is continued as the answer was.
TEST_F(EngineTest, APromptWithTheFirstHalfOfAnAnswerGoesOnAsTheAnswerDid) {
  Start(Small());
  const auto prompt = RandomPrompt(&random_, 21);
  const auto run = [&](const std::vector<int32_t>& text, int tokens) {
    Consumer c;
    Request request = c.Make(1, text, tokens);
    request.sampling.temperature = 2;
    request.sampling.seed = 5;
    // What makes the fake model go bad is not for a prompt.
    request.sampling.banned_ids = {FakeModel::kNotFiniteToken, FakeModel::kNanLogitsToken,
                                   FakeModel::kUnconvergedToken};
    Submit(std::move(request));
    RunUntilIdle();
    c.Poll();
    return c.tokens;
  };
  const std::vector<int32_t> whole = run(prompt, 40);
  ASSERT_EQ(whole.size(), 40u);
  EXPECT_NE(whole, model_->GreedyAfter(prompt, 40)) << "it must be drawn";
  for (const int half : {1, 11, 20}) {
    std::vector<int32_t> longer = prompt;
    longer.insert(longer.end(), whole.begin(), whole.begin() + half);
    EXPECT_EQ(run(longer, 40 - half), std::vector<int32_t>(whole.begin() + half, whole.end()));
  }
}

TEST_F(EngineTest, TellsHowFarTheSolverWasFromItsEnd) {
  Start(Small());
  for (const auto& [token, residual] : {std::pair(FakeModel::kUnconvergedToken, 0.5f), {6, 0.0f}}) {
    Consumer c;
    Submit(c.Make(1, {5, token, 7}, 1));
    RunUntilIdle();
    EXPECT_EQ(engine_->stats().max_residual, residual);
  }
}

TEST_F(EngineTest, EndIds) {
  Start(Small());
  // A prompt whose greedy continuation has a known token at index 5.
  const auto prompt = RandomPrompt(&random_, 20);
  const auto text = model_->GreedyAfter(prompt, 30);
  const int32_t stop = text[5];
  const auto first = std::find(text.begin(), text.end(), stop) - text.begin();
  Consumer c;
  Request request = c.Make(1, prompt, 30);
  request.stop.ids = {stop};
  Submit(std::move(request));
  RunUntilIdle();
  c.Poll();
  EXPECT_EQ(c.finish->reason, FinishReason::kStopId);
  EXPECT_EQ(c.tokens, std::vector<int32_t>(text.begin(), text.begin() + first));
  EXPECT_EQ(c.finish->usage.completion_tokens, first + 1);
}

TEST_F(EngineTest, EosEndsUnlessIgnoredOrTooEarly) {
  Start(Small());
  const auto prompt = RandomPrompt(&random_, 20);
  // The bias makes the end id win every time it may.
  const auto run = [&](bool ignore, int min_tokens) {
    auto c = std::make_unique<Consumer>();
    Request request = c->Make(1, prompt, 6);
    request.stop.ignore_eos = ignore;
    request.stop.min_tokens = min_tokens;
    request.sampling.logit_bias = {{FakeModel::kEos, 1000.0f}};
    Submit(std::move(request));
    RunUntilIdle();
    c->Poll();
    return c;
  };
  auto plain = run(false, 0);
  EXPECT_EQ(plain->finish->reason, FinishReason::kEos);
  EXPECT_TRUE(plain->tokens.empty());
  EXPECT_EQ(plain->finish->usage.completion_tokens, 1);
  auto late = run(false, 3);
  EXPECT_EQ(late->finish->reason, FinishReason::kEos);
  EXPECT_EQ(late->tokens.size(), 3u);
  EXPECT_EQ(std::count(late->tokens.begin(), late->tokens.end(), FakeModel::kEos), 0);
  auto ignored = run(true, 0);
  EXPECT_EQ(ignored->finish->reason, FinishReason::kLength);
  EXPECT_EQ(ignored->tokens, std::vector<int32_t>(6, FakeModel::kEos));
}

TEST_F(EngineTest, LogprobsComeWithEveryToken) {
  Start(Small());
  Consumer c;
  Request request = c.Make(1, RandomPrompt(&random_, 3), 10);
  request.sampling.num_logprobs = 2;
  Submit(std::move(request));
  RunUntilIdle();
  c.Poll();
  ASSERT_EQ(c.logprobs.size(), 10u);
  for (int i = 0; i < 10; ++i) {
    ASSERT_EQ(c.logprobs[i].top.size(), 2u);
    EXPECT_EQ(c.logprobs[i].top[0].first, c.tokens[i]);  // Greedy.
    EXPECT_EQ(c.logprobs[i].top[0].second, c.logprobs[i].logprob);
  }
}

}  // namespace
}  // namespace packrat
