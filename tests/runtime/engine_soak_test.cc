// Random requests, cancellations, deadlines and slow readers against a small engine; after every
// step the books must balance, and every text must be the model's.
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/fake_model.h"

namespace packrat {
namespace {

struct Live {
  Consumer consumer;
  std::vector<int32_t> prompt;
  bool greedy = false;
  uint64_t id = 0;
  bool cancelled = false;
  bool bad = false;
  absl::Time deadline = absl::InfiniteFuture();
};

class Soak {
 public:
  Soak(uint64_t seed, bool ahead) : random_(seed), model_(MakeModel(ahead)) {
    EngineOptions options;
    options.max_running = 1 + Pick(8);
    options.max_queue = 10;
    options.max_batch_tokens = 16 + Pick(48);
    options.max_context = 160;
    options.poison_freed_state = true;
    options.state_bytes =
        static_cast<int64_t>(model_.state_layout().SequenceBytes(160)) * (2 + Pick(5)) / 2;
    engine_ = *Engine::Create(&model_, nullptr, options);
  }

  void Run(int steps) {
    for (int i = 0; i < steps; ++i) {
      for (int n = Pick(3); n > 0; --n) Submit();
      if (Pick(8) == 0 && !live_.empty()) CancelOne();
      Step();
    }
    while (!engine_->idle()) Step();
    for (auto& live : live_) live->consumer.Poll();
    Reap();
    EXPECT_TRUE(live_.empty());
    for (const EngineStats::Pool& pool : engine_->stats().pools) EXPECT_EQ(pool.used, 0);
    EXPECT_GT(completed_, steps / 25);  // Not all died early: the small engines are the slow ones.
  }

 private:
  static FakeModel::Options MakeModel(bool ahead) {
    FakeModel::Options options;
    options.ahead = ahead;
    return options;
  }
  int Pick(int n) { return static_cast<int>(random_() % n); }

  void Submit() {
    auto live = std::make_unique<Live>();
    live->prompt = RandomPrompt(&random_, 1 + Pick(Pick(4) == 0 ? 120 : 30));
    live->bad = Pick(20) == 0;
    if (live->bad) live->prompt.back() = FakeModel::kNotFiniteToken;
    live->id = next_id_++;
    Request request = live->consumer.Make(live->id, live->prompt, 1 + Pick(39));
    live->greedy = Pick(2);
    if (!live->greedy) {
      request.sampling.temperature = 1.0f;
      request.sampling.top_p = 0.9f;
      if (Pick(4) == 0) request.sampling.repetition_penalty = 1.2f;
      request.sampling.seed = random_();
    }
    request.priority = Pick(3);
    if (Pick(5) == 0) live->deadline = request.deadline = now_ + absl::Milliseconds(Pick(60));
    const absl::Status status = engine_->Submit(std::move(request), now_);
    if (status.ok()) {
      live_.push_back(std::move(live));
    } else {
      EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    }
  }

  void CancelOne() {
    Live& live = *live_[Pick(static_cast<int>(live_.size()))];
    live.cancelled = true;  // It may have finished already: then nothing comes of it.
    engine_->Cancel(live.id);
  }

  void Step() {
    engine_->Step(now_ += absl::Milliseconds(1));
    ASSERT_EQ(engine_->CheckIntegrity(), absl::OkStatus());
    for (auto& live : live_) {
      if (Pick(3) == 0) live->consumer.Poll();
    }
    Reap();
  }

  // Checks and drops what has finished.
  void Reap() {
    std::vector<std::unique_ptr<Live>> left;
    for (auto& live : live_) {
      if (!live->consumer.finish.has_value()) {
        left.push_back(std::move(live));
        continue;
      }
      const Finish& finish = *live->consumer.finish;
      const std::vector<int32_t>& tokens = live->consumer.tokens;
      switch (finish.reason) {
        case FinishReason::kLength:
          EXPECT_FALSE(live->bad);
          EXPECT_EQ(static_cast<int>(tokens.size()), finish.usage.completion_tokens);
          ++completed_;
          break;
        case FinishReason::kDeadline:
          EXPECT_LE(live->deadline, now_);
          break;
        case FinishReason::kError:
          EXPECT_TRUE(live->bad);
          break;
        default:
          EXPECT_EQ(finish.reason, FinishReason::kCancelled);
          EXPECT_TRUE(live->cancelled);
      }
      if (live->greedy) {
        EXPECT_EQ(tokens, model_.GreedyAfter(live->prompt, static_cast<int>(tokens.size())));
      }
    }
    live_.swap(left);
  }

  std::mt19937_64 random_;
  FakeModel model_;
  std::unique_ptr<Engine> engine_;
  std::vector<std::unique_ptr<Live>> live_;
  uint64_t next_id_ = 1;
  int completed_ = 0;
  absl::Time now_ = absl::FromUnixSeconds(5000);
};

TEST(EngineSoak, RandomLives) {
  for (uint64_t seed = 0; seed < 24; ++seed) {
    SCOPED_TRACE(seed);
    Soak(seed, /*ahead=*/seed % 2 == 1).Run(250);
  }
}

}  // namespace
}  // namespace packrat
