// Texts that leave one engine as bytes and go on in another: with the golden models, and so all
// kinds of layers, the bits of every token are those of an engine that keeps nothing. With
// PACKRAT_GPU the same on a GPU (tests/gpu).
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "models/cpu_model.h"
#include "runtime/engine.h"
#include "runtime/saved_state.h"
#include "tests/runtime/consumer.h"
#ifdef PACKRAT_GPU
#include "models/gpu/model.h"
#endif

namespace packrat {
namespace {

using Text = std::vector<int32_t>;

#ifdef PACKRAT_GPU
// Little, since every test also runs on the emulated device.
const std::vector<int> kPrompts = {37};
const char* const kModels[] = {"mesa_net_hybrid", "packrat", "gated_delta_net"};

absl::StatusOr<std::unique_ptr<LanguageModel>> Load(const std::string& dir,
                                                    const ModelOptions& options) {
  gpu::GpuOptions gpu_options;
  gpu_options.deterministic = true;
  return gpu::LoadGpuModel(dir, options, gpu_options);
}
#else
// Within a block, at its end, and beyond the windows.
const std::vector<int> kPrompts = {10, 23, 58, 150};
const char* const kModels[] = {"rat",     "rat_local",    "mesa_net", "mesa_net_hybrid",
                               "packrat", "packrat_wide", "llama",    "llama3",
                               "qwen2",   "qwen3",        "qwen3_5",  "gated_delta_net"};

absl::StatusOr<std::unique_ptr<LanguageModel>> Load(const std::string& dir,
                                                    const ModelOptions& options) {
  return LoadCpuModel(dir, options);
}
#endif

constexpr int kGenerated = 9, kMore = 5;

class EngineSavedStateTest : public ::testing::TestWithParam<const char*> {
 protected:
#ifdef PACKRAT_GPU
  void SetUp() override {
    if (!gpu::DeviceUsable().ok()) GTEST_SKIP() << gpu::DeviceUsable().message();
  }
#endif

  // A process of its own, as far as state goes.
  struct Replica {
    std::unique_ptr<LanguageModel> model;
    std::unique_ptr<Engine> engine;
  };
  Replica StartReplica(bool cached, bool poison = true) {
    Replica replica;
    ModelOptions model_options;
    model_options.max_batch_tokens = 64;
    model_options.max_logit_rows = 8;
    model_options.threads = 1;
    model_options.max_context = 256;
    auto model = Load(std::string("tests/golden/") + GetParam(), model_options);
    EXPECT_TRUE(model.ok()) << model.status();
    replica.model = *std::move(model);
    EngineOptions options;
    options.max_running = 4;
    options.max_batch_tokens = 64;
    options.max_context = 256;
    options.poison_freed_state = poison;
    options.prefix_cache = cached;
    auto engine = Engine::Create(replica.model.get(), nullptr, options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    replica.engine = *std::move(engine);
    return replica;
  }

  Text RandomText(const Replica& replica, int tokens) {
    Text text(tokens);
    for (int32_t& token : text) {
      token = static_cast<int32_t>(random_() % replica.model->config().vocab_size);
    }
    return text;
  }

  void Step(const Replica& replica) {
    replica.engine->Step(absl::UnixEpoch());
    ASSERT_EQ(replica.engine->CheckIntegrity(), absl::OkStatus());
  }

  std::unique_ptr<Consumer> Run(const Replica& replica, const Text& prompt) {
    auto consumer = std::make_unique<Consumer>();
    Request request = consumer->Make(++last_id_, prompt, kGenerated);
    request.sampling.num_logprobs = 5;  // Their bits tell more than the tokens.
    request.solver = space_.solver;
    request.tenant = space_.tenant;
    EXPECT_EQ(replica.engine->Submit(std::move(request), absl::UnixEpoch()), absl::OkStatus());
    while (!replica.engine->idle()) Step(replica);
    consumer->Poll();
    return consumer;
  }

  std::string Save(const Replica& replica, const Text& text) {
    std::string bytes;
    replica.engine->SaveState(space_, text, 1 << 30, [&](absl::StatusOr<SavedState> state) {
      ASSERT_TRUE(state.ok()) << state.status();
      bytes = EncodeHeader(*state, OwnerOf(*replica.model)) + state->parts;
    });
    Step(replica);
    return bytes;
  }

  SavedState Restore(const Replica& replica, const std::string& bytes) {
    auto state = DecodeSavedState(bytes, OwnerOf(*replica.model));
    EXPECT_TRUE(state.ok()) << state.status();
    absl::Status status = absl::UnknownError("not called");
    replica.engine->LoadState(space_, *state, [&](const absl::Status& s) { status = s; });
    Step(replica);
    EXPECT_EQ(status, absl::OkStatus());
    return *std::move(state);
  }

  StateSpace space_{"tenant", "", {/*cg_tolerance=*/1e-6f}};
  std::mt19937_64 random_{5};
  uint64_t last_id_ = 0;
};

void Append(const Text& more, Text* text) { text->insert(text->end(), more.begin(), more.end()); }

TEST_P(EngineSavedStateTest, AnotherEngineGoesOnWithTheSameBits) {
  const Replica first = StartReplica(/*cached=*/true), second = StartReplica(/*cached=*/true),
                plain = StartReplica(/*cached=*/false);
  for (int size : kPrompts) {
    SCOPED_TRACE(::testing::Message() << "a prompt of " << size);
    Text text = RandomText(first, size);
    Append(Run(first, text)->tokens, &text);
    const std::string bytes = Save(first, text);
    const SavedState state = Restore(second, bytes);
    EXPECT_EQ(state.tokens, text);
    EXPECT_EQ(state.position, static_cast<int>(text.size()) - 1);  // The last was never computed.

    Append(RandomText(first, kMore), &text);
    const auto moved = Run(second, text), alone = Run(plain, text);
    ASSERT_TRUE(moved->finish.has_value());
    EXPECT_EQ(moved->finish->usage.cached_tokens, state.position);
    EXPECT_EQ(moved->tokens, alone->tokens);
    ASSERT_EQ(moved->logprobs.size(), alone->logprobs.size());
    for (size_t i = 0; i < moved->logprobs.size(); ++i) {
      ASSERT_EQ(moved->logprobs[i].logprob, alone->logprobs[i].logprob) << "token " << i;
      ASSERT_EQ(moved->logprobs[i].top, alone->logprobs[i].top) << "token " << i;
    }
    // What came back can leave again, the same bytes.
    text.resize(state.tokens.size());
    EXPECT_EQ(Save(second, text), bytes);
  }
}

// What others left in parts of the pool stays within the process.
TEST_P(EngineSavedStateTest, HoldsNothingOfOtherTexts) {
  const Replica clean = StartReplica(/*cached=*/true, /*poison=*/false),
                used = StartReplica(/*cached=*/true, /*poison=*/false);
  const Text text = RandomText(clean, 40);
  for (int i = 0; i < 6; ++i) Run(used, RandomText(used, 100 + i));
  Run(clean, text);
  Run(used, text);
  const std::string bytes = Save(clean, text);
  EXPECT_GT(bytes.size(), 40 * sizeof(int32_t));
  EXPECT_EQ(Save(used, text), bytes);
}

INSTANTIATE_TEST_SUITE_P(Models, EngineSavedStateTest, ::testing::ValuesIn(kModels),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace packrat
