// An engine on the fake model, stepped by hand with a clock of its own.
#ifndef PACKRAT_TESTS_RUNTIME_ENGINE_FIXTURE_H_
#define PACKRAT_TESTS_RUNTIME_ENGINE_FIXTURE_H_

#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/fake_model.h"

namespace packrat {

inline constexpr absl::Duration kStep = absl::Milliseconds(10);

class EngineTest : public ::testing::Test {
 protected:
  void Start(EngineOptions options, FakeModel::Options model_options = {}) {
    model_ = std::make_unique<FakeModel>(model_options);
    model_->on_forward = [this](const Batch& batch) {
      spans_.assign(batch.spans, batch.spans + batch.num_spans);
    };
    options.poison_freed_state = true;
    auto engine = Engine::Create(model_.get(), nullptr, options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }
  static EngineOptions Small() {
    EngineOptions options;
    options.max_running = 8;
    options.max_queue = 64;
    options.max_batch_tokens = 32;
    options.inter_token_time = absl::InfiniteDuration();  // Steps do not follow the clock.
    return options;
  }
  bool Step() {
    now_ += kStep;
    spans_.clear();
    const bool acted = engine_->Step(now_);
    EXPECT_EQ(engine_->CheckIntegrity(), absl::OkStatus());
    return acted;
  }
  void Submit(Request request) {
    ASSERT_EQ(engine_->Submit(std::move(request), now_), absl::OkStatus());
  }
  void RunUntilIdle(int limit = 10000) {
    while (!engine_->idle()) {
      ASSERT_TRUE(Step());
      ASSERT_GT(--limit, 0);
    }
  }
  void ExpectAllFree() {
    for (const EngineStats::Pool& pool : engine_->stats().pools)
      EXPECT_EQ(pool.used, 0) << pool.kind;
    EXPECT_EQ(engine_->stats().running, 0);
    EXPECT_EQ(engine_->stats().waiting, 0);
  }
  absl::Status SubmitStatus(Request request) { return engine_->Submit(std::move(request), now_); }

  std::unique_ptr<FakeModel> model_;
  std::unique_ptr<Engine> engine_;
  std::vector<Span> spans_;  // Of the last step.
  absl::Time now_ = absl::FromUnixSeconds(1000000);
  std::mt19937_64 random_{1};
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_ENGINE_FIXTURE_H_
