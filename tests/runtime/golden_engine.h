// What tests of engines on the golden models share. They run with the real kernels, on the CPU or,
// with PACKRAT_GPU (tests/gpu), on a GPU.
#ifndef PACKRAT_TESTS_RUNTIME_GOLDEN_ENGINE_H_
#define PACKRAT_TESTS_RUNTIME_GOLDEN_ENGINE_H_

#include <algorithm>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "models/cpu_model.h"
#include "runtime/engine.h"
#include "tests/models/golden.h"
#include "tests/runtime/consumer.h"
#ifdef PACKRAT_GPU
#include "models/gpu/model.h"
#endif

namespace packrat {

#ifdef PACKRAT_GPU
inline constexpr bool kOnGpu = true;
#else
inline constexpr bool kOnGpu = false;
#endif
#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// Models with all kinds of state; few where each takes long: on a GPU, since every test also runs
// on the emulated device, and under sanitizers.
inline std::vector<std::string> StateModels() {
  if (kOnGpu || kSanitized)
    return {"mesa_net_hybrid", "packrat", "gated_delta_net", "mamba2",
            "short_conv",      "rg_lru",  "rat_plus"};
  return {std::begin(kGoldenCases), std::end(kGoldenCases)};
}

class GoldenEngineTest : public ::testing::TestWithParam<std::string> {
 protected:
  using Text = std::vector<int32_t>;

#ifdef PACKRAT_GPU
  void SetUp() override {
    if (!gpu::DeviceUsable().ok()) GTEST_SKIP() << gpu::DeviceUsable().message();
  }
#endif

  static std::unique_ptr<LanguageModel> Load(const ModelOptions& options) {
    return Load(options, "tests/golden/" + GetParam());
  }
  static std::unique_ptr<LanguageModel> Load(const ModelOptions& options, const std::string& dir) {
#ifdef PACKRAT_GPU
    gpu::GpuOptions gpu_options;
    gpu_options.deterministic = true;
    auto model = gpu::LoadGpuModel(dir, options, gpu_options);
#else
    auto model = LoadCpuModel(dir, options);
#endif
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }
  static std::unique_ptr<Engine> Start(LanguageModel* model, const EngineOptions& options) {
    auto engine = Engine::Create(model, nullptr, options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return engine.ok() ? *std::move(engine) : nullptr;
  }
  static void Submit(Engine* engine, Request request) {
    ASSERT_EQ(engine->Submit(std::move(request), absl::UnixEpoch()), absl::OkStatus());
  }
  static void Step(Engine* engine) {
    engine->Step(absl::UnixEpoch());
    ASSERT_EQ(engine->CheckIntegrity(), absl::OkStatus());
  }
  static void RunUntilIdle(Engine* engine) {
    while (!engine->idle() && !HasFatalFailure()) Step(engine);
  }

  static Request Make(Consumer* consumer, uint64_t id, const Text& prompt, int count) {
    Request request = consumer->Make(id, prompt, count);
    request.sampling.num_logprobs = 5;  // Their bits tell more than the tokens.
    request.solver.cg_tolerance = 1e-6f;
    return request;
  }
  // Of the first `tokens` tokens.
  static void ExpectSameBits(const Consumer& a, const Consumer& b, size_t tokens) {
    ASSERT_GE(std::min({a.tokens.size(), b.tokens.size(), a.logprobs.size(), b.logprobs.size()}),
              tokens);
    for (size_t t = 0; t < tokens; ++t) {
      ASSERT_EQ(a.tokens[t], b.tokens[t]) << "token " << t;
      ASSERT_EQ(a.logprobs[t].logprob, b.logprobs[t].logprob) << "token " << t;
      ASSERT_EQ(a.logprobs[t].top, b.logprobs[t].top) << "token " << t;
    }
  }

  int Pick(size_t n) { return static_cast<int>(random_() % n); }
  Text RandomText(const LanguageModel& model, int tokens) {
    Text text(tokens);
    for (int32_t& token : text) token = Pick(model.config().vocab_size);
    return text;
  }

  std::mt19937_64 random_{11};
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_GOLDEN_ENGINE_H_
