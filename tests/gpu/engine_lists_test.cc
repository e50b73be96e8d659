// What a request is sampled with, where the device has no memory for it: no reason for others to
// end, nor to read anything else.
#include <memory>
#include <string>
#include <vector>

#include "models/gpu/model.h"
#include "runtime/engine.h"
#include "tests/emulation/emulation.h"
#include "tests/gpu/gpu.h"
#include "tests/runtime/consumer.h"

namespace packrat {
namespace {

constexpr int kTokens = 24;
constexpr int kVocab = 257;

class EngineListsTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    ModelOptions options;
    options.max_batch_tokens = 64;
    options.max_logit_rows = 2;
    options.max_context = 128;
    gpu::GpuOptions gpu_options;
    gpu_options.deterministic = true;
    auto model = gpu::LoadGpuModel("tests/golden/packrat", options, gpu_options);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    ASSERT_EQ(model_->config().vocab_size, kVocab);
    EngineOptions engine_options;
    engine_options.max_running = 2;
    engine_options.max_batch_tokens = 64;
    engine_options.max_context = 128;
    auto engine = Engine::Create(model_.get(), nullptr, engine_options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }
  Request Plain(Consumer* consumer, uint64_t id) {
    Request request = consumer->Make(id, {3, 10, 17, 24, 31}, kTokens);
    request.sampling.temperature = 0.8f;
    request.sampling.seed = 5;
    return request;
  }
  // Each list as long as it may be, but that ids below 100 are left.
  Request Long(Consumer* consumer, uint64_t id) {
    Request request = Plain(consumer, id);
    SamplingParams& sampling = request.sampling;
    sampling.frequency_penalty = 0.5f;
    for (int i = 0; i < kVocab; ++i) {
      sampling.logit_bias.emplace_back(i, 0.25f);
      sampling.allowed_ids.push_back(i);
      sampling.banned_ids.push_back(100 + i % (kVocab - 100));
    }
    return request;
  }
  void Submit(Request request) {
    ASSERT_TRUE(engine_->Submit(std::move(request), absl::UnixEpoch()).ok());
  }
  void Steps(int count) {
    for (int i = 0; i < count && !engine_->idle(); ++i) engine_->Step(absl::UnixEpoch());
  }
  void RunUntilIdle() { Steps(1000); }
  std::vector<int32_t> TokensOf(Consumer* consumer) {
    consumer->Poll();
    EXPECT_TRUE(consumer->finish.has_value() && consumer->finish->status.ok());
    return consumer->tokens;
  }

  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Engine> engine_;
};

// Both with a step in flight, whose captured form points to the memory that grows.
TEST_F(EngineListsTest, WithoutMemoryOneRequestEndsAndWithItNobody) {
  Consumer alone, beside_refused, refused, beside_long, served;
  Submit(Plain(&alone, 1));
  RunUntilIdle();
  const std::vector<int32_t> expected = TokensOf(&alone);
  ASSERT_EQ(expected.size(), static_cast<size_t>(kTokens));

  const size_t memory = emulation::machine.memory;
  size_t free = 0, total = 0;
  EXPECT_CUDA_OK(cudaMemGetInfo(&free, &total));
  Submit(Plain(&beside_refused, 2));
  Steps(5);
  emulation::machine.memory = memory - free;
  Submit(Long(&refused, 3));
  RunUntilIdle();
  EXPECT_EQ(TokensOf(&beside_refused), expected);
  refused.Poll();
  ASSERT_TRUE(refused.finish.has_value());
  EXPECT_EQ(refused.finish->reason, FinishReason::kError);
  EXPECT_EQ(refused.finish->status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.finish->status.message().find("sampling parameters need"),
            absl::string_view::npos)
      << refused.finish->status;
  EXPECT_TRUE(refused.tokens.empty());
  EXPECT_TRUE(engine_->failure().ok()) << engine_->failure();

  emulation::machine.memory = memory;
  const size_t scratch = model_->scratch_bytes();
  Submit(Plain(&beside_long, 4));
  Steps(5);
  Submit(Long(&served, 5));
  RunUntilIdle();
  EXPECT_EQ(TokensOf(&beside_long), expected);
  EXPECT_EQ(TokensOf(&served).size(), static_cast<size_t>(kTokens));
  for (const int32_t token : served.tokens) EXPECT_LT(token, 100);
  EXPECT_GT(model_->scratch_bytes(), scratch) << "the memory did not grow, and nothing was tested";
  EXPECT_TRUE(engine_->CheckIntegrity().ok()) << engine_->CheckIntegrity();
}

}  // namespace
}  // namespace packrat
