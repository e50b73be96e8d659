// The engine on the golden models, with the real kernels: what a request gets is the reference's
// token, and the same bits alone, in company, whatever the token budget and the number of threads.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "tests/models/golden.h"
#include "tests/runtime/golden_engine.h"

namespace packrat {
namespace {

// Little on a GPU, since every test also runs on the emulated device.
constexpr int kGenerated = kOnGpu ? 20 : 40, kCompany = kOnGpu ? 5 : 16;
const std::vector<int> kThreads = kOnGpu ? std::vector<int>{1} : std::vector<int>{1, 2};
const std::vector<int> kBudgets = kOnGpu ? std::vector<int>{19} : std::vector<int>{19, 64};
const std::vector<std::string> kModels =
    kOnGpu ? std::vector<std::string>{"mesa_net_hybrid", "packrat"}
           : std::vector<std::string>{
                 "rat",        "rat_local",    "mesa_net",        "mesa_net_hybrid",
                 "packrat",    "packrat_wide", "gated_delta_net", "mamba2",
                 "short_conv", "rg_lru",       "rat_plus"};

class EngineGoldenTest : public GoldenEngineTest {
 protected:
  // The prompt is the first row of the golden case, all of it.
  EngineGoldenTest()
      : golden_(ReadGolden(GetParam())),
        prompt_(golden_.ids.begin(), golden_.ids.begin() + golden_.tokens) {}
  const float* LogitsAt(int position) const {
    return &golden_.logits[static_cast<size_t>(position) * golden_.vocab];
  }

  void StartEngine(int threads, int max_batch_tokens) {
    engine_.reset();
    ModelOptions model_options;
    model_options.max_batch_tokens = max_batch_tokens;
    model_options.max_logit_rows = 32;
    model_options.threads = threads;
    model_options.max_context = 512;
    model_ = Load(model_options);
    ASSERT_NE(model_, nullptr);
    EngineOptions options;
    options.max_running = 12;  // Some of the company has to wait.
    options.max_batch_tokens = max_batch_tokens;
    options.max_context = 512;
    options.poison_freed_state = true;
    engine_ = Start(model_.get(), options);
  }

  // The request, with `others` that arrive at random before it and while it runs.
  std::unique_ptr<Consumer> Run(int others, uint64_t seed) {
    std::mt19937_64 random(seed);
    const int vocab = model_->config().vocab_size;
    std::vector<std::unique_ptr<Consumer>> company;
    const auto add_other = [&] {
      std::vector<int32_t> other(1 + random() % 120);
      for (int32_t& token : other) token = static_cast<int32_t>(random() % vocab);
      company.push_back(std::make_unique<Consumer>());
      Request request = Make(company.back().get(), 100 + company.size(), other, 1 + random() % 50);
      request.sampling.temperature = company.size() % 2 ? 1.0f : 0.0f;
      Submit(engine_.get(), std::move(request));
    };
    auto consumer = std::make_unique<Consumer>();
    const int before = others > 0 ? others / 2 : 0;
    for (int i = 0; i < before; ++i) {
      add_other();
      if (random() % 2) Step(engine_.get());
    }
    Submit(engine_.get(), Make(consumer.get(), 1, prompt_, kGenerated));
    while (!engine_->idle() && !HasFatalFailure()) {
      Step(engine_.get());
      if (static_cast<int>(company.size()) < others && random() % 3 == 0) add_other();
      if (!company.empty() && random() % 40 == 0) engine_->Cancel(100 + 1 + random() % others);
    }
    EXPECT_EQ(static_cast<int>(company.size()), others);
    consumer->Poll();
    return consumer;
  }

  const Golden golden_;
  const Text prompt_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Engine> engine_;
};

TEST_P(EngineGoldenTest, SameBitsAloneAndInCompany) {
  StartEngine(/*threads=*/1, /*max_batch_tokens=*/256);
  const auto alone = Run(0, 0);
  ASSERT_TRUE(alone->finish.has_value());
  EXPECT_EQ(alone->finish->reason, FinishReason::kLength) << alone->finish->status;
  ASSERT_EQ(alone->tokens.size(), static_cast<size_t>(kGenerated));
  const float* const last = LogitsAt(golden_.tokens - 1);
  EXPECT_EQ(alone->tokens[0], std::max_element(last, last + golden_.vocab) - last);
  for (int threads : kThreads) {
    for (int budget : kBudgets) {
      SCOPED_TRACE(::testing::Message() << threads << " threads, budget " << budget);
      StartEngine(threads, budget);
      const auto company = Run(kCompany, 10 * threads + budget);
      EXPECT_EQ(company->tokens, alone->tokens);
      ExpectSameBits(*alone, *company, kGenerated);
    }
  }
}

// What was generated, when it is scored, has the log-probabilities that it was generated with, and
// the prompt those of the reference.
TEST_P(EngineGoldenTest, ScoresAreThoseOfGeneration) {
  for (const int budget : kBudgets) {
    StartEngine(/*threads=*/1, budget);
    const auto generated = Run(0, 0);
    Text text = prompt_;
    text.insert(text.end(), generated->tokens.begin(), generated->tokens.end());
    Consumer scored, company;
    Request request = Make(&scored, 1, text, 0);
    request.score_from = 1;
    Submit(engine_.get(), std::move(request));
    request = Make(&company, 2, prompt_, 3);
    request.score_from = 3;
    Submit(engine_.get(), std::move(request));
    RunUntilIdle(engine_.get());
    scored.Poll();
    ASSERT_EQ(scored.scores.size(), text.size() - 1);
    for (size_t i = 0; i < generated->tokens.size(); ++i) {
      const TokenScore& score = scored.scores[prompt_.size() - 1 + i];
      EXPECT_EQ(score.token, generated->tokens[i]);
      EXPECT_EQ(score.best, generated->tokens[i]);
      EXPECT_EQ(score.logprobs.logprob, generated->logprobs[i].logprob) << i;
      EXPECT_EQ(score.logprobs.top, generated->logprobs[i].top) << i;
    }
    if (kOnGpu) continue;
    // The golden test bounds the error of all logits by so much of their norm.
    double norm = 0;
    for (const float* x = LogitsAt(0); x != LogitsAt(golden_.tokens); ++x) norm += double{*x} * *x;
    const double tolerance = 2 * 5e-6 * std::sqrt(norm);
    for (int t = 1; t < golden_.tokens; ++t) {
      const float* const logits = LogitsAt(t - 1);
      double sum = 0;
      for (int v = 0; v < golden_.vocab; ++v) sum += std::exp(double{logits[v]});
      EXPECT_NEAR(scored.scores[t - 1].logprobs.logprob, logits[prompt_[t]] - std::log(sum),
                  tolerance)
          << t;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EngineGoldenTest, ::testing::ValuesIn(kModels),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace packrat
