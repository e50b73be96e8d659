// The prefix cache on the golden models, with the real kernels: conversations that go on, fork and
// come again, in one batch and with little memory, parked for others of higher priority, get what
// each of their requests gets alone from an engine that keeps nothing: the same tokens, and the
// same bits of their log-probabilities. With PACKRAT_GPU the same on a GPU (tests/gpu).
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "models/cpu_model.h"
#include "runtime/engine.h"
#include "tests/runtime/consumer.h"
#ifdef PACKRAT_GPU
#include "models/gpu/model.h"
#endif

namespace packrat {
namespace {

using Text = std::vector<int32_t>;

#ifdef PACKRAT_GPU
// Little, since every test also runs on the emulated device.
constexpr int kRequests = 10, kLongest = 60, kMostGenerated = 12, kBudget = 40, kLeastParks = 0;
const char* const kModels[] = {"mesa_net_hybrid", "packrat", "gated_delta_net"};

absl::StatusOr<std::unique_ptr<LanguageModel>> Load(const std::string& dir,
                                                    const ModelOptions& options) {
  gpu::GpuOptions gpu_options;
  gpu_options.deterministic = true;
  return gpu::LoadGpuModel(dir, options, gpu_options);
}
#else
constexpr int kRequests = 60, kLongest = 160, kMostGenerated = 40, kBudget = 96, kLeastParks = 5;
const char* const kModels[] = {"rat",     "rat_local",    "mesa_net", "mesa_net_hybrid",
                               "packrat", "packrat_wide", "llama",    "llama3",
                               "qwen2",   "qwen3",        "qwen3_5",  "gated_delta_net"};

absl::StatusOr<std::unique_ptr<LanguageModel>> Load(const std::string& dir,
                                                    const ModelOptions& options) {
  return LoadCpuModel(dir, options);
}
#endif

struct Case {
  Text prompt;
  int count;
  float temperature;
  int priority;
  Consumer consumer;
};

class EngineCacheGoldenTest : public ::testing::TestWithParam<const char*> {
 protected:
#ifdef PACKRAT_GPU
  void SetUp() override {
    if (!gpu::DeviceUsable().ok()) GTEST_SKIP() << gpu::DeviceUsable().message();
  }
#endif

  int Pick(size_t n) { return static_cast<int>(random_() % n); }

  void Start(bool cached) {
    engine_.reset();
    EngineOptions options;
    options.max_running = cached ? 4 : 1;
    options.max_batch_tokens = cached ? kBudget : 256;
    options.max_context = 256;
    options.poison_freed_state = true;
    options.prefix_cache = cached;
    options.cache_sequences = 5;
    options.park_memory = int64_t{1} << 30;
    // Less than the texts want, so that states have to give way.
    options.state_bytes = 6 * static_cast<int64_t>(model_->state_layout().SequenceBytes(256));
    auto engine = Engine::Create(model_.get(), nullptr, options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }

  Request Make(Consumer* consumer, uint64_t id, const Case& from) {
    Request request = consumer->Make(id, from.prompt, from.count);
    request.sampling.temperature = from.temperature;
    request.sampling.seed = id;
    request.sampling.num_logprobs = 5;  // Their bits tell more than the tokens.
    request.solver.cg_tolerance = 1e-6f;
    request.priority = from.priority;
    return request;
  }

  void Step() {
    engine_->Step(absl::UnixEpoch());
    ASSERT_EQ(engine_->CheckIntegrity(), absl::OkStatus());
  }

  Text RandomText(int tokens) {
    Text text(tokens);
    for (int32_t& token : text) token = Pick(model_->config().vocab_size);
    return text;
  }

  // From nothing, from another prompt's beginning, or from all that another request has got.
  Text NextPrompt(const std::vector<std::unique_ptr<Case>>& cases) {
    if (cases.size() < 3) return RandomText(1 + Pick(kLongest));
    const Case& from = *cases[Pick(cases.size())];
    Text text = from.prompt;
    if (from.consumer.finish.has_value() && Pick(2)) {
      text.insert(text.end(), from.consumer.tokens.begin(), from.consumer.tokens.end());
    } else if (Pick(2)) {
      text.resize(1 + Pick(text.size()));
    }
    const Text more = RandomText(Pick(3) ? 1 + Pick(20) : 0);
    text.insert(text.end(), more.begin(), more.end());
    if (static_cast<int>(text.size()) > kLongest) text.resize(kLongest);
    return text;
  }

  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Engine> engine_;
  std::mt19937_64 random_{11};
};

TEST_P(EngineCacheGoldenTest, WhatEachWouldGetAlone) {
  ModelOptions model_options;
  model_options.max_batch_tokens = 256;
  model_options.max_logit_rows = 32;
  model_options.threads = 1;
  model_options.max_context = 256;
  auto model = Load(std::string("tests/golden/") + GetParam(), model_options);
  ASSERT_TRUE(model.ok()) << model.status();
  model_ = *std::move(model);

  Start(/*cached=*/true);
  std::vector<std::unique_ptr<Case>> cases;
  while (!engine_->idle() || static_cast<int>(cases.size()) < kRequests) {
    if (static_cast<int>(cases.size()) < kRequests && (engine_->idle() || Pick(10) == 0)) {
      auto next = std::make_unique<Case>();
      next->prompt = NextPrompt(cases);
      next->count = 1 + Pick(kMostGenerated);
      next->temperature = Pick(2) ? 1.0f : 0.0f;
      next->priority = Pick(3);
      Request request = Make(&next->consumer, cases.size(), *next);
      if (Pick(4) == 0) request.cache.snapshot_at = Pick(next->prompt.size());
      ASSERT_EQ(engine_->Submit(std::move(request), absl::UnixEpoch()), absl::OkStatus());
      cases.push_back(std::move(next));
    }
    if (Pick(30) == 0 && !cases.empty()) engine_->Cancel(Pick(cases.size()));
    Step();
    for (auto& one : cases) one->consumer.Poll();
  }
  const EngineStats::Cache stats = engine_->stats().cache;
  EXPECT_GT(stats.lookups[static_cast<int>(CacheMiss::kNone)], kRequests / 5);
  EXPECT_GT(stats.dropped, kRequests / 5);
  EXPECT_GT(engine_->stats().parking.parks, kLeastParks);

  Start(/*cached=*/false);
  int compared = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    const Consumer& cached = cases[i]->consumer;
    ASSERT_TRUE(cached.finish.has_value());
    SCOPED_TRACE(::testing::Message() << "request " << i << ", " << cases[i]->prompt.size()
                                      << " tokens, cached " << cached.finish->usage.cached_tokens);
    Consumer alone;
    ASSERT_EQ(engine_->Submit(Make(&alone, i, *cases[i]), absl::UnixEpoch()), absl::OkStatus());
    while (!engine_->idle()) Step();
    alone.Poll();
    // A cancelled one has a part of it.
    const size_t tokens = cached.tokens.size();
    if (cached.finish->status.ok()) {
      EXPECT_EQ(tokens, alone.tokens.size());
    }
    ASSERT_LE(tokens, alone.tokens.size());
    for (size_t t = 0; t < tokens; ++t) {
      ASSERT_EQ(cached.tokens[t], alone.tokens[t]) << "token " << t;
      ASSERT_EQ(cached.logprobs[t].logprob, alone.logprobs[t].logprob) << "token " << t;
      ASSERT_EQ(cached.logprobs[t].top, alone.logprobs[t].top) << "token " << t;
    }
    compared += cached.finish->usage.cached_tokens > 0 && tokens > 0;
  }
  EXPECT_GT(compared, kRequests / 6);
}

INSTANTIATE_TEST_SUITE_P(Models, EngineCacheGoldenTest, ::testing::ValuesIn(kModels),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace packrat
