// Decoding allocates nothing: what a sequence may need was taken at its admission, and not before.
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "runtime/sampling_state.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/fake_model.h"
#include "tests/tools/allocations.h"

namespace packrat {
namespace {

TEST(EngineAllocations, TheCounterCounts) {
  const int64_t before = NumAllocations();
  auto number = std::make_unique<int>(7);
  EXPECT_EQ(*number, 7);
  EXPECT_GT(NumAllocations(), before);
}

void ExpectNoneWhileDecoding(bool ahead) {
  FakeModel::Options model_options;
  model_options.ahead = ahead;
  FakeModel model(model_options);
  EngineOptions options;
  options.max_running = 8;
  options.max_batch_tokens = 64;
  options.park_memory = 1;  // Is looked at in every step, and is too little.
  auto engine = *Engine::Create(&model, nullptr, options);
  absl::Time now = absl::FromUnixSeconds(1);
  std::mt19937_64 random(4);
  std::vector<Consumer> consumers(8);
  for (int i = 0; i < 8; ++i) {
    Request request = consumers[i].Make(i, RandomPrompt(&random, 10 + i), 200);
    SamplingParams& sampling = request.sampling;
    sampling.temperature = i == 0 ? 0.0f : 1.0f;
    sampling.top_p = i % 2 ? 0.9f : 1.0f;
    sampling.top_k = i % 3 ? 20 : 0;
    sampling.min_p = i == 5 ? 0.1f : 0.0f;
    if (!ahead) {  // These would hold it back.
      sampling.frequency_penalty = i > 4 ? 0.5f : 0.0f;
      sampling.repetition_penalty = i > 5 ? 1.1f : 1.0f;
    }
    if (i == 3) sampling.logit_bias = {{5, 1.0f}};
    if (i == 4) sampling.allowed_ids = {5, 6, 7, 8, 9};
    if (i == 6) sampling.banned_ids = {5, 6, 7};
    request.stop.min_tokens = 100;
    request.stop.ids = {1};
    request.deadline = now + absl::Hours(1);
    ASSERT_EQ(engine->Submit(std::move(request), now), absl::OkStatus());
  }
  engine->Step(now += absl::Milliseconds(1));
  Consumer waits;
  Request above = waits.Make(8, {5}, 10);
  above.priority = 1;
  ASSERT_EQ(engine->Submit(std::move(above), now), absl::OkStatus());
  for (int i = 0; i < 10; ++i) engine->Step(now += absl::Milliseconds(1));
  ASSERT_EQ(engine->stats().running, 8);
  ASSERT_EQ(engine->stats().waiting, 1);
  for (int i = 0; i < 80; ++i) {
    now += absl::Milliseconds(1);
    const int64_t before = NumAllocations();
    engine->Step(now);
    ASSERT_EQ(NumAllocations(), before) << "step " << i;
    if (i % 10 == 0) {
      for (Consumer& consumer : consumers) consumer.Poll();
    }
  }
  for (Consumer& consumer : consumers) {
    consumer.Poll();
    EXPECT_GE(consumer.tokens.size(), 80u);
  }
}

TEST(EngineAllocations, NoneWhileDecoding) { ExpectNoneWhileDecoding(/*ahead=*/false); }
TEST(EngineAllocations, NoneWhileDecodingAhead) { ExpectNoneWhileDecoding(/*ahead=*/true); }

// Bytes for each token of a prompt that is computed, with the snapshots on its way. No more for
// long ones, whose text is not copied at each.
double BytesForEachToken(int tokens) {
  FakeModel::Options model_options;
  model_options.max_context = 1 << 16;
  model_options.max_batch_tokens = 4096;
  model_options.window = model_options.rat = model_options.full = false;
  FakeModel model(model_options);
  EngineOptions options;
  options.max_running = 1;
  options.max_context = model_options.max_context;
  options.max_batch_tokens = model_options.max_batch_tokens;
  options.cache_sequences = 20;
  options.state_bytes = int64_t{1} << 30;
  auto engine = *Engine::Create(&model, nullptr, options);
  absl::Time now = absl::FromUnixSeconds(1);
  std::mt19937_64 random(4);
  Consumer consumer;
  EXPECT_EQ(engine->Submit(consumer.Make(1, RandomPrompt(&random, tokens), 1), now),
            absl::OkStatus());
  engine->Step(now);  // Admission remembers the prompt, and lists the pages that it may need.
  const int64_t before = NumAllocatedBytes();
  while (engine->Step(now += absl::Milliseconds(1))) {
  }
  consumer.Poll();
  EXPECT_EQ(consumer.tokens.size(), 1u);
  EXPECT_GE(engine->stats().cache.snapshots, tokens / 4096);
  return static_cast<double>(NumAllocatedBytes() - before) / tokens;
}

TEST(EngineAllocations, SnapshotsOnTheWayTakeNoMoreInALongText) {
  const double of_short = BytesForEachToken(2 * 4096 + 100);
  const double of_long = BytesForEachToken(14 * 4096 + 100);
  EXPECT_LE(of_long, 2 * of_short) << of_short;
}

// What waits takes no memory for what it claims, and what decodes little more than what it has.
TEST(EngineAllocations, AClaimIsNoMemory) {
  FakeModel::Options model_options;
  model_options.max_context = 1 << 20;
  model_options.vocab = 200000;
  model_options.full = model_options.rat = false;
  model_options.max_logit_rows = 1;
  FakeModel model(model_options);
  EngineOptions options;
  options.max_running = 1;
  options.max_queue = 10;
  options.max_batch_tokens = 64;
  auto engine = *Engine::Create(&model, nullptr, options);
  const absl::Time now = absl::FromUnixSeconds(1);
  std::vector<Consumer> consumers(20);
  const int64_t before = NumAllocatedBytes();
  for (int i = 0; i < 20; ++i) {
    Request request = consumers[i].Make(i, {5}, 1000000);
    request.sampling.repetition_penalty = 1.1f;
    EXPECT_EQ(engine->Submit(std::move(request), now).ok(), i < 10);
  }
  EXPECT_LT(NumAllocatedBytes() - before, 200000);
  engine->Step(now);
  EXPECT_LT(NumAllocatedBytes() - before, 600000);
}

// The room for counted tokens doubles: a few times in a long text, not once for each token.
TEST(EngineAllocations, CountsGrowNowAndThen) {
  SamplingParams params;
  params.repetition_penalty = 1.1f;
  SamplingState state(params, 1 << 20);
  state.Begin({}, 1 << 20);
  const int64_t before = NumAllocations();
  for (int i = 0; i < SamplingState::kReservedTokens; ++i) state.AddGenerated(i);
  EXPECT_EQ(NumAllocations(), before);
  for (int i = SamplingState::kReservedTokens; i < 100000; ++i) state.AddGenerated(i);
  EXPECT_LE(NumAllocations() - before, 20);
}

}  // namespace
}  // namespace packrat
