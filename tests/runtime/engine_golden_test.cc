// The engine on the golden models, with the real kernels: what a request gets is the reference's
// token, and the same bits alone, in company, whatever the token budget and the number of threads.
// With PACKRAT_GPU the same on a GPU (tests/gpu).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "models/cpu_model.h"
#include "models/files/checkpoint.h"
#include "runtime/engine.h"
#include "tests/runtime/consumer.h"
#ifdef PACKRAT_GPU
#include "models/gpu/model.h"
#endif

namespace packrat {
namespace {

#ifdef PACKRAT_GPU
// Little, since every test also runs on the emulated device.
constexpr int kGenerated = 20, kCompany = 5;
const char* const kModels[] = {"mesa_net_hybrid", "packrat"};
const std::vector<int> kThreads = {1}, kBudgets = {19};

absl::StatusOr<std::unique_ptr<LanguageModel>> Load(const std::string& dir,
                                                    const ModelOptions& options) {
  gpu::GpuOptions gpu_options;
  gpu_options.deterministic = true;
  return gpu::LoadGpuModel(dir, options, gpu_options);
}
#else
constexpr int kGenerated = 40, kCompany = 16;
const std::vector<int> kThreads = {1, 2}, kBudgets = {19, 64};
const char* const kModels[] = {"rat",     "rat_local",    "mesa_net",       "mesa_net_hybrid",
                               "packrat", "packrat_wide", "gated_delta_net"};

absl::StatusOr<std::unique_ptr<LanguageModel>> Load(const std::string& dir,
                                                    const ModelOptions& options) {
  return LoadCpuModel(dir, options);
}
#endif

// A prompt and, of the reference's logits, the best token after it.
struct Golden {
  std::vector<int32_t> prompt;
  std::vector<float> logits;  // (prompt, vocab)
  int32_t next;
};

// The first row of the golden case, all of it.
Golden ReadGolden(const std::string& name) {
  auto file = Checkpoint::OpenFile("tests/golden/" + name + "/expected.safetensors");
  EXPECT_TRUE(file.ok()) << file.status();
  const TensorView ids = *(*file)->Find("input_ids"), logits = *(*file)->Find("logits");
  const int64_t tokens = ids.shape[1], vocab = logits.shape[2];
  Golden golden;
  golden.prompt.resize(tokens);
  EXPECT_TRUE((*file)->Read(ids, 0, tokens * sizeof(int32_t), golden.prompt.data()).ok());
  golden.logits.resize(tokens * vocab);
  EXPECT_TRUE(
      (*file)->Read(logits, 0, golden.logits.size() * sizeof(float), golden.logits.data()).ok());
  const auto last = golden.logits.end() - vocab;
  golden.next = static_cast<int32_t>(std::max_element(last, golden.logits.end()) - last);
  return golden;
}

class EngineGoldenTest : public ::testing::TestWithParam<const char*> {
 protected:
#ifdef PACKRAT_GPU
  void SetUp() override {
    if (!gpu::DeviceUsable().ok()) GTEST_SKIP() << gpu::DeviceUsable().message();
  }
#endif

  void Start(int threads, int max_batch_tokens) {
    engine_.reset();
    model_.reset();
    ModelOptions model_options;
    model_options.max_batch_tokens = max_batch_tokens;
    model_options.max_logit_rows = 32;
    model_options.threads = threads;
    model_options.max_context = 512;
    auto model = Load(std::string("tests/golden/") + GetParam(), model_options);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    EngineOptions options;
    options.max_running = 12;  // Some of the company has to wait.
    options.max_batch_tokens = max_batch_tokens;
    options.max_context = 512;
    options.poison_freed_state = true;
    auto engine = Engine::Create(model_.get(), nullptr, options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }

  Request Make(Consumer* consumer, uint64_t id, const std::vector<int32_t>& prompt, int count) {
    Request request = consumer->Make(id, prompt, count);
    request.sampling.num_logprobs = 5;  // Their bits tell more than the tokens.
    request.solver.cg_tolerance = 1e-6f;
    return request;
  }

  void Step() {
    engine_->Step(absl::UnixEpoch());
    ASSERT_EQ(engine_->CheckIntegrity(), absl::OkStatus());
  }

  // The request, with `others` that arrive at random before it and while it runs.
  std::unique_ptr<Consumer> Run(const std::vector<int32_t>& prompt, int others, uint64_t seed) {
    std::mt19937_64 random(seed);
    const int vocab = model_->config().vocab_size;
    std::vector<std::unique_ptr<Consumer>> company;
    const auto add_other = [&] {
      std::vector<int32_t> other(1 + random() % 120);
      for (int32_t& token : other) token = static_cast<int32_t>(random() % vocab);
      company.push_back(std::make_unique<Consumer>());
      Request request = Make(company.back().get(), 100 + company.size(), other, 1 + random() % 50);
      request.sampling.temperature = company.size() % 2 ? 1.0f : 0.0f;
      EXPECT_EQ(engine_->Submit(std::move(request), absl::UnixEpoch()), absl::OkStatus());
    };
    auto consumer = std::make_unique<Consumer>();
    const int before = others > 0 ? others / 2 : 0;
    for (int i = 0; i < before; ++i) {
      add_other();
      if (random() % 2) Step();
    }
    EXPECT_EQ(engine_->Submit(Make(consumer.get(), 1, prompt, kGenerated), absl::UnixEpoch()),
              absl::OkStatus());
    while (!engine_->idle()) {
      Step();
      if (static_cast<int>(company.size()) < others && random() % 3 == 0) add_other();
      if (!company.empty() && random() % 40 == 0) engine_->Cancel(100 + 1 + random() % others);
    }
    EXPECT_EQ(static_cast<int>(company.size()), others);
    consumer->Poll();
    return consumer;
  }

  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Engine> engine_;
};

void ExpectSameBits(const Consumer& a, const Consumer& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (size_t i = 0; i < a.logprobs.size(); ++i) {
    ASSERT_EQ(a.logprobs[i].logprob, b.logprobs[i].logprob) << "token " << i;
    ASSERT_EQ(a.logprobs[i].top, b.logprobs[i].top) << "token " << i;
  }
}

TEST_P(EngineGoldenTest, SameBitsAloneAndInCompany) {
  const Golden golden = ReadGolden(GetParam());
  Start(/*threads=*/1, /*max_batch_tokens=*/256);
  const auto alone = Run(golden.prompt, 0, 0);
  ASSERT_TRUE(alone->finish.has_value());
  EXPECT_EQ(alone->finish->reason, FinishReason::kLength) << alone->finish->status;
  ASSERT_EQ(alone->tokens.size(), static_cast<size_t>(kGenerated));
  EXPECT_EQ(alone->tokens[0], golden.next);
  for (int threads : kThreads) {
    for (int budget : kBudgets) {
      SCOPED_TRACE(::testing::Message() << threads << " threads, budget " << budget);
      Start(threads, budget);
      const auto company = Run(golden.prompt, kCompany, 10 * threads + budget);
      ExpectSameBits(*alone, *company);
    }
  }
}

// What was generated, when it is scored, has the log-probabilities that it was generated with, and
// the prompt those of the reference.
TEST_P(EngineGoldenTest, ScoresAreThoseOfGeneration) {
  const Golden golden = ReadGolden(GetParam());
  for (const int budget : kBudgets) {
    Start(/*threads=*/1, budget);
    const auto generated = Run(golden.prompt, 0, 0);
    std::vector<int32_t> text = golden.prompt;
    text.insert(text.end(), generated->tokens.begin(), generated->tokens.end());
    Consumer scored, company;
    Request request = Make(&scored, 1, text, 0);
    request.score_from = 1;
    ASSERT_EQ(engine_->Submit(std::move(request), absl::UnixEpoch()), absl::OkStatus());
    request = Make(&company, 2, golden.prompt, 3);
    request.score_from = 3;
    ASSERT_EQ(engine_->Submit(std::move(request), absl::UnixEpoch()), absl::OkStatus());
    while (!engine_->idle()) Step();
    scored.Poll();
    ASSERT_EQ(scored.scores.size(), text.size() - 1);
    for (size_t i = 0; i < generated->tokens.size(); ++i) {
      const TokenScore& score = scored.scores[golden.prompt.size() - 1 + i];
      EXPECT_EQ(score.token, generated->tokens[i]);
      EXPECT_EQ(score.best, generated->tokens[i]);
      EXPECT_EQ(score.logprobs.logprob, generated->logprobs[i].logprob) << i;
      EXPECT_EQ(score.logprobs.top, generated->logprobs[i].top) << i;
    }
#ifndef PACKRAT_GPU
    // The golden test bounds the error of all logits by so much of their norm.
    double norm = 0;
    for (float x : golden.logits) norm += static_cast<double>(x) * x;
    const double tolerance = 2 * 5e-6 * std::sqrt(norm);
    const size_t vocab = golden.logits.size() / golden.prompt.size();
    for (size_t t = 1; t < golden.prompt.size(); ++t) {
      const float* logits = &golden.logits[(t - 1) * vocab];
      double sum = 0;
      for (size_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(logits[v]));
      EXPECT_NEAR(scored.scores[t - 1].logprobs.logprob, logits[golden.prompt[t]] - std::log(sum),
                  tolerance)
          << t;
    }
#endif
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EngineGoldenTest, ::testing::ValuesIn(kModels),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace packrat
