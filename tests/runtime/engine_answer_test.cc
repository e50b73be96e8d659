// The state that a conversation goes on from where its answer ended early: also where the device is
// a step ahead, so that an end is known only when the state is past it.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/engine_fixture.h"
#include "tests/runtime/fake_model.h"

namespace packrat {
namespace {

using Text = std::vector<int32_t>;

// Tokens of an answer that are computed once more, at most, where the device is ahead.
constexpr int kLost = 80;

class EngineAnswerTest : public EngineTest, public ::testing::WithParamInterface<bool> {
 protected:
  bool ahead() const { return GetParam(); }
  void StartEngine(const EngineOptions& options) {
    FakeModel::Options model;
    model.ahead = ahead();
    Start(options, model);
  }
  // Where the model's answer of `least` to `most` tokens may end: at a token that has not come
  // before, the last such one.
  int EndAfter(const Text& prompt, int least, int most) {
    const Text answer = model_->GreedyAfter(prompt, most);
    for (int end = most - 1; end >= least; --end) {
      if (std::find(answer.begin(), answer.begin() + end, answer[end]) == answer.begin() + end) {
        return end;
      }
    }
    ADD_FAILURE() << "no answer ends there";
    return least;
  }
  // A turn that ends by an id after so many tokens, which become part of the text.
  Consumer Turn(Text* text, int tokens) {
    const Text answer = model_->GreedyAfter(*text, tokens + 1);
    Consumer c;
    Request request = c.Make(++id_, *text, tokens + 30);
    request.cache.importance = 1;
    request.stop.ids = {answer.back()};
    Submit(std::move(request));
    RunUntilIdle();
    c.Poll();
    EXPECT_EQ(c.finish->reason, FinishReason::kStopId);
    EXPECT_EQ(c.tokens, Text(answer.begin(), answer.end() - 1));
    text->insert(text->end(), c.tokens.begin(), c.tokens.end());
    return c;
  }
  void Say(Text* text, int tokens) {
    const Text more = RandomPrompt(&random_, tokens);
    text->insert(text->end(), more.begin(), more.end());
  }

  uint64_t id_ = 0;
};

TEST_P(EngineAnswerTest, ATurnComputesLittleOfTheLastAnswer) {
  StartEngine(Small());
  Text text;
  Say(&text, 50);
  Turn(&text, EndAfter(text, 90, 130));
  for (int turn = 1; turn < 3; ++turn) {
    const auto before = static_cast<int>(text.size());
    Say(&text, 5 + turn);
    const Consumer next = Turn(&text, EndAfter(text, 90, 130));
    const int cached = next.finish->usage.cached_tokens;
    EXPECT_LE(cached, before);
    EXPECT_GE(cached, before - (ahead() ? kLost : 0)) << "turn " << turn;
  }
  // On its way an answer has taken the place of what it left before: of each turn there are at most
  // that, the state past its end, and one where the next turn parted from it.
  EXPECT_LE(engine_->stats().cache.snapshots, 3 * 3);
  EXPECT_EQ(engine_->stats().cache.dropped, 0);
  ExpectAllFree();
}

// Where others' states fill the pool, a short answer leaves at least its prompt's end.
TEST_P(EngineAnswerTest, ShortAnswersLeaveTheirPrompt) {
  EngineOptions options = Small();
  options.max_running = 2;
  options.cache_sequences = 3;
  StartEngine(options);
  for (int i = 0; i < 8; ++i) {
    Consumer other;
    Submit(other.Make(++id_, RandomPrompt(&random_, 60 + i), 5));
    RunUntilIdle();
  }
  Text text;
  Say(&text, 50);
  int last_prompt = static_cast<int>(text.size());
  Turn(&text, EndAfter(text, 5, 25));
  for (int turn = 1; turn < 6; ++turn) {
    Say(&text, 20 + turn);
    const auto prompt = static_cast<int>(text.size());
    const Consumer next = Turn(&text, EndAfter(text, 5, 25));
    EXPECT_GE(next.finish->usage.cached_tokens, last_prompt) << "turn " << turn;
    last_prompt = prompt;
  }
}

// Whose next turn begins with the id that ended the answer need not compute even that.
TEST_P(EngineAnswerTest, TheEndIdMayBePartOfTheNextTurn) {
  StartEngine(Small());
  Text text;
  Say(&text, 50);
  const int tokens = EndAfter(text, 90, 130);
  const int32_t end = model_->GreedyAfter(text, tokens + 1).back();
  Turn(&text, tokens);
  text.push_back(end);
  const auto before = static_cast<int>(text.size());
  Say(&text, 5);
  const Consumer next = Turn(&text, EndAfter(text, 5, 25));
  EXPECT_EQ(next.finish->usage.cached_tokens, before - (ahead() ? 0 : 1));
}

INSTANTIATE_TEST_SUITE_P(Devices, EngineAnswerTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Ahead" : "InTurn"; });

}  // namespace
}  // namespace packrat
