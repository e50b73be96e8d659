// Prompts beside texts that decode, on a model that takes a millisecond for each token, or more
// where the machine is busy: by that pieces only become smaller.
#include <chrono>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/runtime/engine_fixture.h"

namespace packrat {
namespace {

class SlowModel : public FakeModel {
 public:
  using FakeModel::FakeModel;
  absl::Status Start(const Batch& batch, const StateMemory& state,
                     absl::Span<const SamplingRow> rows) override {
    started_.push_back(batch.num_tokens);
    return FakeModel::Start(batch, state, rows);
  }
  absl::Status Wait(SpanStats* stats, SampledToken* sampled) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(started_.front()));
    started_.pop_front();
    return FakeModel::Wait(stats, sampled);
  }

 private:
  std::deque<int> started_;  // Tokens of the steps in flight.
};

class InterTokenTimeTest : public EngineTest {
 protected:
  // The first text's prompt is computed and it has begun to decode.
  void Start(absl::Duration inter_token_time, bool ahead) {
    FakeModel::Options slow;
    slow.max_batch_tokens = 256;
    slow.ahead = ahead;
    model_ = std::make_unique<SlowModel>(slow);
    model_->on_forward = [this](const Batch& batch) {
      spans_.assign(batch.spans, batch.spans + batch.num_spans);
    };
    EngineOptions options = Small();
    options.max_batch_tokens = 256;
    options.inter_token_time = inter_token_time;
    options.prefix_cache = false;  // Which cuts prompts too.
    auto engine = Engine::Create(model_.get(), nullptr, options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    Submit(first_.Make(1, RandomPrompt(&random_, 64), 400));
    for (int step = 0; step < 8; ++step) ASSERT_TRUE(Step());
  }
  // The pieces in which a prompt of so many tokens is computed.
  std::vector<int> PiecesOf(int tokens) {
    Submit(second_.Make(2, RandomPrompt(&random_, tokens), 1));
    std::vector<int> pieces;
    for (int left = tokens; left > 0; left -= pieces.back()) {
      EXPECT_TRUE(Step());
      EXPECT_EQ(spans_.size(), 2u);  // Who decodes gets a token in each.
      if (spans_.size() != 2) break;
      pieces.push_back(spans_[1].num_tokens);
    }
    return pieces;
  }
  void ExpectPiecesOf40Milliseconds() {
    const std::vector<int> pieces = PiecesOf(240);
    EXPECT_GE(pieces.size(), 4u);
    for (int piece : pieces) {
      EXPECT_GE(piece, 16);
      EXPECT_LE(piece, 64);
    }
    const EngineStats stats = engine_->stats();
    EXPECT_GE(stats.max_prompt_tokens, 16);
    EXPECT_LE(stats.max_prompt_tokens, 64);
    int64_t foretold = 0;
    for (size_t i = 0; i <= stats.step_time_ratio.bounds().size(); ++i) {
      foretold += stats.step_time_ratio.count(i);
    }
    // Nothing was known before the first step's end, and the last one may be in flight.
    EXPECT_GE(foretold, stats.steps - 3);
    EXPECT_LT(foretold, stats.steps);
  }

  Consumer first_, second_;
};

TEST_F(InterTokenTimeTest, APromptIsCutForThoseWhoDecode) {
  Start(absl::Milliseconds(40), /*ahead=*/false);
  ExpectPiecesOf40Milliseconds();
}

TEST_F(InterTokenTimeTest, AndWhereStepsAreStartedAhead) {
  Start(absl::Milliseconds(40), /*ahead=*/true);
  ExpectPiecesOf40Milliseconds();
}

TEST_F(InterTokenTimeTest, WithoutATargetItIsComputedAtOnce) {
  Start(absl::InfiniteDuration(), /*ahead=*/false);
  EXPECT_EQ(PiecesOf(240), std::vector<int>{240});
  EXPECT_EQ(engine_->stats().max_prompt_tokens, 255);
}

TEST_F(InterTokenTimeTest, WhereNobodyDecodesItIsComputedAtOnce) {
  Start(absl::Milliseconds(40), /*ahead=*/false);
  engine_->Cancel(1);
  ASSERT_TRUE(Step());
  Submit(second_.Make(2, RandomPrompt(&random_, 240), 1));
  ASSERT_TRUE(Step());
  ASSERT_EQ(spans_.size(), 1u);
  EXPECT_EQ(spans_[0].num_tokens, 240);
  EXPECT_EQ(engine_->stats().max_prompt_tokens, 256);
}

}  // namespace
}  // namespace packrat
