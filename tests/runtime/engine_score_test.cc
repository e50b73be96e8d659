// Requests whose tokens are given: each is scored as the logits before it say, whatever runs beside
// them and however the text is cut.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
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

class EngineScoreTest : public EngineTest {
 protected:
  // Scores text[from, end) and generates nothing.
  static Request Score(Consumer* consumer, uint64_t id, std::vector<int32_t> text, int from) {
    Request request = consumer->Make(id, std::move(text), 0);
    request.score_from = from;
    request.sampling.num_logprobs = 3;
    return request;
  }

  void ExpectScores(const std::vector<TokenScore>& scores, const std::vector<int32_t>& text,
                    int from) {
    ASSERT_EQ(scores.size(), text.size() - from);
    for (size_t i = 0; i < scores.size(); ++i) {
      SCOPED_TRACE(i);
      const TokenScore& score = scores[i];
      const size_t at = from + i;
      const std::vector<float> logits = model_->LogitsAfter({text.begin(), text.begin() + at});
      double sum = 0, entropy = 0;
      for (float x : logits) sum += std::exp(static_cast<double>(x));
      const auto logprob = [&](int id) { return logits[id] - std::log(sum); };
      for (size_t id = 0; id < logits.size(); ++id) {
        entropy -= std::exp(logprob(static_cast<int>(id))) * logprob(static_cast<int>(id));
      }
      std::vector<int> ids(logits.size());
      for (size_t id = 0; id < ids.size(); ++id) ids[id] = static_cast<int>(id);
      std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) { return logits[a] > logits[b]; });
      EXPECT_EQ(score.token, text[at]);
      EXPECT_NEAR(score.logprobs.logprob, logprob(text[at]), 2e-6);
      EXPECT_NEAR(score.entropy, entropy, 1e-5);
      EXPECT_EQ(score.best, ids[0]);
      EXPECT_NEAR(score.margin, logits[ids[0]] - logits[ids[1]], 1e-6);
      ASSERT_EQ(score.logprobs.top.size(), 3u);
      for (int k = 0; k < 3; ++k) {
        EXPECT_EQ(score.logprobs.top[k].first, ids[k]);
        EXPECT_NEAR(score.logprobs.top[k].second, logprob(ids[k]), 2e-6);
      }
    }
  }
};

void ExpectSameBits(const std::vector<TokenScore>& a, const std::vector<TokenScore>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].token, b[i].token) << i;
    ASSERT_EQ(a[i].logprobs.logprob, b[i].logprobs.logprob) << i;
    ASSERT_EQ(a[i].logprobs.top, b[i].logprobs.top) << i;
    ASSERT_EQ(a[i].best, b[i].best) << i;
    ASSERT_EQ(a[i].entropy, b[i].entropy) << i;
    ASSERT_EQ(a[i].margin, b[i].margin) << i;
  }
}

TEST_F(EngineScoreTest, ScoresAreWhatTheLogitsSay) {
  Start(Small());
  for (const auto& [size, from] : {std::pair<int, int>{2, 1}, {100, 1}, {100, 99}, {80, 16}}) {
    Consumer c;
    const auto text = RandomPrompt(&random_, size);
    Submit(Score(&c, 1, text, from));
    RunUntilIdle();
    c.Poll();
    ExpectScores(c.scores, text, from);
    ASSERT_TRUE(c.finish.has_value());
    EXPECT_EQ(c.finish->reason, FinishReason::kLength);
    EXPECT_EQ(c.finish->status, absl::OkStatus());
    EXPECT_EQ(c.finish->usage.prompt_tokens, size);
    EXPECT_EQ(c.finish->usage.completion_tokens, 0);
    // What the last token would predict is nobody's question.
    EXPECT_EQ(c.finish->usage.solver.solves, size - 1);
    EXPECT_TRUE(c.tokens.empty());
    ExpectAllFree();
  }
  EXPECT_EQ(engine_->stats().scored_tokens, 1 + 99 + 1 + 64);
  EXPECT_EQ(engine_->stats().generated_tokens, 0);
  EXPECT_EQ(engine_->stats().prompt_tokens, 1 + 99 + 99 + 79);
}

TEST_F(EngineScoreTest, APromptIsScoredAndThenGoneOnFrom) {
  Start(Small());
  for (const int size : {1, 2, 50}) {
    Consumer c;
    const auto prompt = RandomPrompt(&random_, size);
    Request request = c.Make(1, prompt, 7);
    request.score_from = 1;
    request.sampling.num_logprobs = 3;
    Submit(std::move(request));
    RunUntilIdle();
    c.Poll();
    ExpectScores(c.scores, prompt, 1);
    EXPECT_EQ(c.tokens, model_->GreedyAfter(prompt, 7));
    EXPECT_EQ(c.logprobs.size(), 7u);
    ExpectAllFree();
  }
}

// Bias, bans and penalties are of what is drawn.
TEST_F(EngineScoreTest, SamplingChangesNoScore) {
  Start(Small());
  const auto text = RandomPrompt(&random_, 40);
  Consumer c;
  Request request = Score(&c, 1, text, 3);
  request.stop.max_tokens = 4;
  request.sampling.temperature = 2;
  request.sampling.repetition_penalty = 1.5f;
  request.sampling.banned_ids = text;
  request.sampling.logit_bias = {{text[5], 3.0f}};
  Submit(std::move(request));
  RunUntilIdle();
  c.Poll();
  ExpectScores(c.scores, text, 3);
  EXPECT_EQ(c.tokens.size(), 4u);
}

TEST_F(EngineScoreTest, SameBitsForEveryCutAndInCompany) {
  const auto text = RandomPrompt(&random_, 150);
  std::vector<TokenScore> alone;
  for (const int rows : {64, 8, 9, 21}) {
    for (const int tokens : {64, 16, 23}) {
      for (const bool ahead : {false, true}) {
        SCOPED_TRACE(testing::Message() << rows << " rows, " << tokens << " tokens " << ahead);
        EngineOptions options = Small();
        options.max_batch_tokens = tokens;
        FakeModel::Options model;
        model.max_logit_rows = rows;
        model.ahead = ahead;
        Start(options, model);
        const bool company = !alone.empty();
        std::vector<std::unique_ptr<Consumer>> others;
        for (int i = 0; company && i < 12; ++i) {
          others.push_back(std::make_unique<Consumer>());
          const auto prompt = RandomPrompt(&random_, 2 + static_cast<int>(random_() % 60));
          Submit(i % 2 ? Score(others[i].get(), 10 + i, prompt, 1)
                       : others[i]->Make(10 + i, prompt, 20));
          if (i % 3 == 0) Step();
        }
        Consumer c;
        Submit(Score(&c, 1, text, 5));
        if (company) engine_->Cancel(13);
        RunUntilIdle();
        c.Poll();
        ExpectScores(c.scores, text, 5);
        if (!company) alone = c.scores;
        ExpectSameBits(c.scores, alone);
        ExpectAllFree();
      }
    }
  }
}

// Of several requests that begin alike the first computes what they share, and the others wait for
// that alone.
TEST_F(EngineScoreTest, OnePrefillForAllThatGoOnFromAPrompt) {
  for (const bool ahead : {false, true}) {
    for (const bool cache : {true, false}) {
      SCOPED_TRACE(testing::Message() << (ahead ? "ahead" : "") << (cache ? " cache" : ""));
      EngineOptions options = Small();
      options.prefix_cache = cache;
      FakeModel::Options model;
      model.ahead = ahead;
      Start(options, model);
      const auto prompt = RandomPrompt(&random_, 100);
      std::vector<Consumer> consumers(12);
      std::vector<Request> requests;
      std::vector<std::vector<int32_t>> texts;
      for (size_t i = 0; i < consumers.size(); ++i) {
        texts.push_back(prompt);
        for (int t : RandomPrompt(&random_, 5)) texts.back().push_back(t);
        requests.push_back(Score(&consumers[i], 1 + i, texts.back(), 100));
        requests.back().cache.snapshot_at = 96;
      }
      ASSERT_EQ(engine_->Submit(std::move(requests), now_), absl::OkStatus());
      EXPECT_EQ(engine_->stats().waiting, 12);
      Step();
      EXPECT_EQ(engine_->stats().running, cache ? 1 : 8);
      RunUntilIdle();
      for (size_t i = 0; i < consumers.size(); ++i) {
        consumers[i].Poll();
        ExpectScores(consumers[i].scores, texts[i], 100);
        EXPECT_EQ(consumers[i].finish->usage.cached_tokens, cache && i > 0 ? 96 : 0) << i;
      }
      // The prompt once, and what each has of its own: 4 tokens of the prompt's last block, and 4
      // of 5.
      EXPECT_EQ(engine_->stats().prompt_tokens, cache ? 96 + 12 * 8 : 12 * 104);
    }
  }
}

TEST_F(EngineScoreTest, WhoFollowsOneThatFailsGoesOnAlone) {
  for (const bool cancel : {false, true}) {
    Start(Small());
    const auto good = RandomPrompt(&random_, 100);
    auto bad = good;
    bad[10] = FakeModel::kNotFiniteToken;
    std::vector<Consumer> consumers(4);
    std::vector<Request> requests;
    for (int i = 0; i < 4; ++i) {
      requests.push_back(Score(&consumers[i], 1 + i, i == 0 && !cancel ? bad : good, 98));
      requests.back().cache.snapshot_at = 96;
    }
    ASSERT_EQ(engine_->Submit(std::move(requests), now_), absl::OkStatus());
    if (cancel) {
      Step();
      engine_->Cancel(1);
      engine_->Cancel(3);  // Which has not been queued yet.
    }
    RunUntilIdle();
    for (int i = 0; i < 4; ++i) {
      consumers[i].Poll();
      const FinishReason reason = cancel && i % 2 == 0 ? FinishReason::kCancelled
                                  : i == 0             ? FinishReason::kError
                                                       : FinishReason::kLength;
      EXPECT_EQ(consumers[i].finish->reason, reason) << i;
    }
    ExpectAllFree();
  }
  // An end for all finds those that wait, too.
  Start(Small());
  std::vector<Consumer> consumers(3);
  std::vector<Request> requests;
  const auto text = RandomPrompt(&random_, 100);
  for (int i = 0; i < 3; ++i) {
    requests.push_back(Score(&consumers[i], 1 + i, text, 98));
    requests.back().cache.snapshot_at = 96;
  }
  ASSERT_EQ(engine_->Submit(std::move(requests), now_), absl::OkStatus());
  Step();
  engine_->AbortAll(absl::UnavailableError("enough"));
  RunUntilIdle();
  for (Consumer& c : consumers) {
    c.Poll();
    EXPECT_EQ(c.finish->status.message(), "enough");
  }
  ExpectAllFree();
}

// A flood of scores does not hold up who only wants an answer.
TEST_F(EngineScoreTest, WhoGeneratesHasItsRow) {
  EngineOptions options = Small();
  options.max_batch_tokens = 64;
  FakeModel::Options model;
  model.max_logit_rows = 8;
  Start(options, model);
  std::vector<Consumer> scores(7);
  for (int i = 0; i < 7; ++i) {
    Submit(Score(&scores[i], 1 + i, RandomPrompt(&random_, 200), 1));
  }
  Step();
  Consumer c;
  Submit(c.Make(50, RandomPrompt(&random_, 10), 5));
  for (int i = 0; i < 5; ++i) Step();
  c.Poll();
  EXPECT_EQ(c.tokens.size(), 5u);
  RunUntilIdle();
}

TEST_F(EngineScoreTest, FailuresAndCancelsLeaveNothing) {
  for (const bool ahead : {false, true}) {
    FakeModel::Options model;
    model.ahead = ahead;
    Start(Small(), model);
    for (const int bad : {FakeModel::kNotFiniteToken, FakeModel::kNanLogitsToken}) {
      for (const int at : {0, 40, 98}) {
        Consumer c;
        auto text = RandomPrompt(&random_, 100);
        text[at] = bad;
        Submit(Score(&c, 1, text, 1));
        RunUntilIdle();
        c.Poll();
        ASSERT_TRUE(c.finish.has_value());
        EXPECT_EQ(c.finish->reason, FinishReason::kError);
        EXPECT_LE(c.scores.size(), static_cast<size_t>(at));
        ExpectAllFree();
      }
      Consumer last;  // A token that nothing is computed of can do no harm.
      auto text = RandomPrompt(&random_, 20);
      text.push_back(bad);
      Submit(Score(&last, 1, text, 1));
      RunUntilIdle();
      last.Poll();
      EXPECT_EQ(last.finish->reason, FinishReason::kLength);
    }
    Consumer c;
    Submit(Score(&c, 1, RandomPrompt(&random_, 300), 1));
    for (int i = 0; i < 3; ++i) Step();
    engine_->Cancel(1);
    RunUntilIdle();
    c.Poll();
    EXPECT_EQ(c.finish->reason, FinishReason::kCancelled);
    EXPECT_LT(c.scores.size(), 299u);
    ExpectAllFree();
  }
}

TEST_F(EngineScoreTest, Validation) {
  Start(Small());
  Consumer c;
  const auto text = RandomPrompt(&random_, 10);
  const auto message = [&](const Request& request) {
    const absl::Status status = SubmitStatus(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message(Score(&c, 1, text, 0)), HasSubstr("score_from is 0; range [1, 9]"));
  EXPECT_THAT(message(Score(&c, 1, text, 10)), HasSubstr("score_from is 10; range [1, 9]"));
  EXPECT_THAT(message(Score(&c, 1, {5}, 1)), HasSubstr("prompt has 1 tokens; range [2, 512]"));
  EXPECT_THAT(message(Score(&c, 1, RandomPrompt(&random_, 513), 1)),
              HasSubstr("prompt has 513 tokens; range [2, 512]"));
  EXPECT_THAT(message(c.Make(1, text, 0)), HasSubstr("stop.max_tokens is 0; range [1, "));
  Request request = Score(&c, 1, text, 11);
  request.stop.max_tokens = 1;
  EXPECT_THAT(message(request), HasSubstr("score_from is 11; range [1, 10]"));
  request = Score(&c, 1, text, 1);
  request.sampling.num_logprobs = 21;
  EXPECT_THAT(message(request), HasSubstr("sampling.num_logprobs is 21; range [0, 20]"));
  // The longest of all.
  const auto longest = RandomPrompt(&random_, 512);
  Submit(Score(&c, 1, longest, 1));
  RunUntilIdle();
  c.Poll();
  ExpectScores(c.scores, longest, 1);
}

}  // namespace
}  // namespace packrat
