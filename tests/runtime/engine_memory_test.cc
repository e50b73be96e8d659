// Memory that is refused to one request ends that request and nothing else.
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "models/text/tokenizer.h"
#include "runtime/engine.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/fake_model.h"
#include "tests/runtime/state_pieces.h"
#include "tests/tools/allocations.h"

namespace packrat {
namespace {

constexpr int kTokens = 12;

class EngineMemoryTest : public ::testing::Test {
 protected:
  EngineMemoryTest() {
    const std::string dir = ::testing::TempDir() + "engine_memory_test";
    std::filesystem::create_directories(dir);
    std::filesystem::copy_file("tests/data/mistral-7b-v0.1.model", dir + "/tokenizer.model",
                               std::filesystem::copy_options::overwrite_existing);
    auto tokenizer = Tokenizer::Load(dir, kVocab);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    FakeModel::Options model_options;
    model_options.vocab = kVocab;
    model_ = std::make_unique<FakeModel>(model_options);
  }
  void Start(bool prefix_cache) {
    EngineOptions options;
    options.max_running = 4;
    options.max_batch_tokens = 64;
    options.prefix_cache = prefix_cache;
    engine_ = *Engine::Create(model_.get(), tokenizer_.get(), options);
  }

  // With all that a request can make the engine take memory for.
  Request Large(Consumer* consumer) {
    // As long as what the cache keeps, and like the one before for the most part.
    std::vector<int32_t> prompt(40, 5);
    prompt.back() = static_cast<int32_t>(6 + id_ % 50);
    Request request = consumer->Make(++id_, prompt, kTokens);
    request.tenant = "a name that does not fit into the string itself " + std::to_string(id_);
    request.priority = static_cast<int>(id_ % 3);
    request.sampling.frequency_penalty = 0.5f;
    request.sampling.num_logprobs = 3;
    request.sampling.logit_bias = {{5, 1.0f}};
    request.text.stop_strings = {"no text of this model has so long a stop string in it"};
    request.stop.ids = {1};
    return request;
  }
  void Step() {
    engine_->Step(now_ += absl::Milliseconds(1));
    ASSERT_EQ(engine_->CheckIntegrity(), absl::OkStatus());
  }
  void ExpectNothingHeld() {
    const EngineStats stats = engine_->stats();
    EXPECT_EQ(stats.running + stats.waiting, 0);
    for (const EngineStats::Pool& pool : stats.pools) EXPECT_EQ(pool.used, 0) << pool.kind;
  }

  static constexpr int kVocab = 32000;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<FakeModel> model_;
  std::unique_ptr<Engine> engine_;
  uint64_t id_ = 0;
  absl::Time now_ = absl::FromUnixSeconds(1);
};

// Every allocation of a request's way through the engine fails once: its copy, its place in the
// queue, its counts, its outbox, its tokens.
TEST_F(EngineMemoryTest, OneRefusedAllocationEndsOneRequest) {
  Start(/*prefix_cache=*/false);
  int refused_at_the_door = 0, refused_later = 0;
  bool failed = true;
  for (int n = 0; failed; ++n) {
    SCOPED_TRACE(n);
    Consumer neighbour, consumer;
    ASSERT_EQ(engine_->Submit(neighbour.Make(++id_, {9, 9}, 2 * kTokens), now_), absl::OkStatus());
    Step();
    Request request = Large(&consumer);
    FailAllocation(n);
    const absl::Status submitted = engine_->Submit(std::move(request), now_);
    for (int i = 0; i < kTokens + 1; ++i) engine_->Step(now_ += absl::Milliseconds(1));
    failed = AllocationFailed();
    FailAllocation(-1);
    while (!engine_->idle()) Step();
    Step();

    neighbour.Poll();
    ASSERT_TRUE(neighbour.finish.has_value());
    EXPECT_EQ(neighbour.finish->status, absl::OkStatus());
    EXPECT_EQ(neighbour.tokens.size(), 2u * kTokens);
    consumer.Poll();
    EXPECT_EQ(consumer.finish.has_value(), submitted.ok());
    const absl::Status end = submitted.ok() ? consumer.finish->status : submitted;
    if (failed) {
      EXPECT_EQ(end.code(), absl::StatusCode::kResourceExhausted) << end;
      ++(submitted.ok() ? refused_later : refused_at_the_door);
    } else {
      EXPECT_EQ(end, absl::OkStatus());
      EXPECT_EQ(consumer.tokens.size(), static_cast<size_t>(kTokens));
    }
    EXPECT_GE(consumer.logprobs.size(), consumer.tokens.size());
    ExpectNothingHeld();
  }
  EXPECT_GT(refused_at_the_door, 5);
  EXPECT_GT(refused_later, 20);
}

// What the cache cannot remember or keep, it does without: the request goes on.
TEST_F(EngineMemoryTest, TheCacheDoesWithout) {
  Start(/*prefix_cache=*/true);
  int done_without = 0;
  bool failed = true;
  for (int n = 0; failed; ++n) {
    SCOPED_TRACE(n);
    Consumer neighbour, consumer;
    ASSERT_EQ(engine_->Submit(neighbour.Make(++id_, {9, 9}, 2 * kTokens), now_), absl::OkStatus());
    Step();
    Request request = Large(&consumer);
    request.tenant = "one";
    FailAllocation(n);
    const absl::Status submitted = engine_->Submit(std::move(request), now_);
    for (int i = 0; i < kTokens + 3; ++i) engine_->Step(now_ += absl::Milliseconds(1));
    failed = AllocationFailed();
    FailAllocation(-1);
    while (!engine_->idle()) Step();
    Step();
    consumer.Poll();
    const absl::Status end = submitted.ok() ? consumer.finish->status : submitted;
    if (end.ok()) {
      EXPECT_EQ(consumer.tokens.size(), static_cast<size_t>(kTokens));
      done_without += failed;
    } else {
      EXPECT_EQ(end.code(), absl::StatusCode::kResourceExhausted) << end;
    }
    ExpectNothingHeld();
  }
  EXPECT_GT(done_without, 10);
  EXPECT_GT(engine_->stats().cache.cached_tokens, 0);
}

// A state that finds no memory on its way out or in stays where it is, and whoever waits is told.
TEST_F(EngineMemoryTest, StatesThatLeaveAndCome) {
  const std::vector<int32_t> text(40, 5);
  const StateSpace there{"a tenant whose name does not fit into the string itself", "", {}};
  absl::StatusOr<SavedState> saved = absl::UnknownError("not called");
  int refused[2] = {};
  for (const bool comes : {false, true}) {
    const SavedState state = comes ? *saved : SavedState();
    bool failed = true;
    for (int n = 0; failed; ++n) {
      SCOPED_TRACE(n);
      Start(/*prefix_cache=*/true);
      Consumer consumer;
      ASSERT_EQ(engine_->Submit(consumer.Make(++id_, text, 1), now_), absl::OkStatus());
      while (!engine_->idle()) Step();
      absl::Status status = absl::UnknownError("not called");
      if (comes) {
        LoadWhole(engine_.get(), there, state, [&](const absl::Status& s) { status = s; });
      } else {
        SaveWhole(engine_.get(), {}, text, [&](absl::StatusOr<SavedState> s) {
          status = s.status();
          saved = std::move(s);
        });
      }
      FailAllocation(n);
      engine_->Step(now_);
      failed = AllocationFailed();
      FailAllocation(-1);
      EXPECT_EQ(status.code(),
                failed ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kOk)
          << status;
      refused[comes] += failed;
      ASSERT_EQ(engine_->CheckIntegrity(), absl::OkStatus());
      ExpectNothingHeld();
    }
    ASSERT_TRUE(saved.ok()) << saved.status();
    EXPECT_EQ(saved->position, 40);
  }
  EXPECT_GT(refused[0], 2);
  EXPECT_GT(refused[1], 5);
}

}  // namespace
}  // namespace packrat
