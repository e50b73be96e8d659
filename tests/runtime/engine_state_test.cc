// States that leave the engine and come to it, beside what runs.
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/saved_state.h"
#include "runtime/state_stream.h"
#include "tests/runtime/engine_fixture.h"
#include "tests/runtime/state_pieces.h"

namespace packrat {
namespace {

using Text = std::vector<int32_t>;

class EngineStateTest : public EngineTest {
 protected:
  absl::StatusOr<SavedState> Save(const Text& text, const StateSpace& space = {}) {
    absl::StatusOr<SavedState> saved = absl::UnknownError("not called");
    SaveWhole(engine_.get(), space, text,
              [&](absl::StatusOr<SavedState> s) { saved = std::move(s); });
    Step();
    return saved;
  }
  absl::Status Load(const SavedState& state, const StateSpace& space = {}) {
    absl::Status status = absl::UnknownError("not called");
    LoadWhole(engine_.get(), space, state, [&](const absl::Status& s) { status = s; });
    Step();
    return status;
  }
  // Runs a text to its end and gives it back with what was generated.
  Text Run(Text prompt, int count = 5) {
    Consumer consumer;
    Submit(consumer.Make(++last_id_, prompt, count));
    RunUntilIdle();
    consumer.Poll();
    EXPECT_EQ(consumer.tokens, model_->GreedyAfter(prompt, count));
    cached_tokens_ = consumer.finish->usage.cached_tokens;
    prompt.insert(prompt.end(), consumer.tokens.begin(), consumer.tokens.end());
    return prompt;
  }
  uint64_t last_id_ = 0;
  int cached_tokens_ = 0;
};

TEST_F(EngineStateTest, WhatIsNotKeptIsSavedWithoutState) {
  Start(Small());
  const Text text = RandomPrompt(&random_, 50);
  auto saved = Save(text);
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->tokens, text);
  EXPECT_EQ(saved->position, 0);
  EXPECT_EQ(saved->parts, "");
  EXPECT_EQ(Load(*saved), absl::OkStatus());
  Run(text);
  EXPECT_EQ(cached_tokens_, 0);
}

TEST_F(EngineStateTest, ATextIsFoundWhereItWasLoadedAndNowhereElse) {
  Start(Small());
  const Text text = Run(RandomPrompt(&random_, 50));
  const auto saved = Save(text);
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->position, 54);
  EXPECT_EQ(Save(text, {"other", "", {}})->position, 0);
  EXPECT_EQ(Save(text, {"", "salt", {}})->position, 0);
  EXPECT_EQ(Save(text, {"", "", {1e-3f, 64}})->position, 0);

  Start(Small());
  EXPECT_EQ(Load(*saved, {"other", "", {}}), absl::OkStatus());
  Run(text);
  EXPECT_EQ(cached_tokens_, 0);
  Start(Small());
  EXPECT_EQ(Load(*saved), absl::OkStatus());
  EXPECT_EQ(Load(*saved), absl::OkStatus());  // Again: it is there.
  EXPECT_EQ(engine_->stats().cache.snapshots, 1);
  Run(text);
  EXPECT_EQ(cached_tokens_, 54);
}

// A state by hand: pieces, and what comes of each.
class StateInPiecesTest : public EngineStateTest {
 protected:
  absl::StatusOr<StatePiece> Read(const Text& text, KeptState which, int64_t at, int64_t size) {
    absl::StatusOr<StatePiece> piece = absl::UnknownError("not called");
    engine_->ReadState({}, Shared(text), which, at, size,
                       [&](absl::StatusOr<StatePiece> read) { piece = std::move(read); });
    Step();
    return piece;
  }
  absl::Status Write(const SavedState& state, int64_t at, int64_t size) {
    absl::Status status = absl::UnknownError("not called");
    engine_->WriteState(number_, state.position, /*dial=*/0, at, state.parts.substr(at, size),
                        [&](const absl::Status& s) { status = s; });
    Step();
    return status;
  }
  absl::Status Keep(const Text& text) {
    absl::Status status = absl::UnknownError("not called");
    engine_->KeepState(number_, {}, Shared(text), [&](const absl::Status& s) { status = s; });
    Step();
    return status;
  }
  // Parts of the pool that the cache holds, of all kinds.
  int64_t Cached() const {
    int64_t parts = 0;
    for (const EngineStats::Pool& pool : engine_->stats().pools) parts += pool.cached;
    return parts;
  }
  // Of the longest text.
  SavedState MadeUp(int position) {
    SavedState state;
    state.tokens = RandomPrompt(&random_, position);
    state.position = position;
    state.parts.resize(SavedPartBytes(model_->state_layout(), position));
    for (char& byte : state.parts) byte = static_cast<char>(random_());
    return state;
  }
  uint64_t number_ = Engine::NewStateNumber();
};

TEST_F(StateInPiecesTest, TheyAreTheWhole) {
  Start(Small());
  const Text text = Run(RandomPrompt(&random_, 83));
  const SavedState whole = *Save(text);
  for (const int64_t size : {1, 100, 4096, 5000}) {
    if (size == 1 && whole.parts.size() > 20000) continue;
    std::string parts;
    KeptState which;
    for (;;) {
      const auto piece = Read(text, which, static_cast<int64_t>(parts.size()), size);
      ASSERT_TRUE(piece.ok()) << piece.status();
      EXPECT_EQ(piece->from.position, whole.position);
      if (piece->bytes.empty()) break;
      which = piece->from;
      parts += piece->bytes;
    }
    EXPECT_EQ(parts, whole.parts) << size;

    Start(Small());
    const auto all = static_cast<int64_t>(whole.parts.size());
    for (int64_t at = 0; at < all; at += size) {
      ASSERT_EQ(Write(whole, at, size), absl::OkStatus());
      EXPECT_EQ(Save(text)->position, 0);  // Nobody finds it yet.
    }
    EXPECT_EQ(Keep(text), absl::OkStatus());
    EXPECT_EQ(Save(text)->parts, whole.parts);
    Run(text);
    EXPECT_EQ(cached_tokens_, whole.position);
    Start(Small());
    EXPECT_EQ(Run(Text(text.begin(), text.begin() + 83)), text);
  }
}

// It takes of the pool what has come of it, and gives it back where no more comes.
TEST_F(StateInPiecesTest, WhatIsDroppedLeavesNothing) {
  Start(Small());
  const SavedState state = MadeUp(400);
  const auto all = static_cast<int64_t>(state.parts.size());
  int64_t before = 0, first = 0;
  for (int64_t at = 0; at < all; at += all / 8) {
    ASSERT_EQ(Write(state, at, all / 8), absl::OkStatus());
    EXPECT_GE(Cached(), before);
    before = Cached();
    if (at == 0) first = before;
  }
  EXPECT_GT(first, 0);
  EXPECT_GT(before, 2 * first);
  engine_->DropState(number_);
  Step();
  EXPECT_EQ(Cached(), 0);
  EXPECT_TRUE(absl::IsAborted(Keep(state.tokens)));
  EXPECT_TRUE(absl::IsAborted(Write(state, 100, 100)));
  EXPECT_EQ(Save(state.tokens)->position, 0);
  // Begun anew it drops what was there.
  ASSERT_EQ(Write(state, 0, all), absl::OkStatus());
  ASSERT_EQ(Write(state, 0, 100), absl::OkStatus());
  EXPECT_LT(Cached(), 16);
  engine_->DropState(number_);
  engine_->DropState(number_ + 1);
  Step();
  EXPECT_EQ(Cached(), 0);
}

// What runs has what it needs, of what comes and of what leaves.
TEST_F(StateInPiecesTest, TheyGiveWayToWhatRuns) {
  EngineOptions options = Small();
  options.max_running = 1;
  options.state_bytes = static_cast<int64_t>(FakeModel().state_layout().SequenceBytes(512));
  Start(options);
  const SavedState state = MadeUp(400);
  const auto half = static_cast<int64_t>(state.parts.size()) / 2;
  ASSERT_EQ(Write(state, 0, half), absl::OkStatus());
  const Text other = Run(RandomPrompt(&random_, 490));
  EXPECT_TRUE(absl::IsAborted(Write(state, half, half)));

  const auto first = Read(other, {}, 0, 100);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->from.position, 494);
  Run(RandomPrompt(&random_, 490));
  EXPECT_TRUE(absl::IsAborted(Read(other, first->from, 100, 100).status()));
  // Nor is it another one of the same text, which might have other bits.
  EXPECT_EQ(Run(Text(other.begin(), other.begin() + 490)), other);
  const auto again = Read(other, {}, 0, 100);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->from.position, 494);
  EXPECT_TRUE(absl::IsAborted(Read(other, first->from, 100, 100).status()));
  ExpectAllFree();
}

// A state that is too large for the pool is refused before it takes anything of others.
TEST_F(StateInPiecesTest, WhatCannotFitTakesNothing) {
  EngineOptions options = Small();
  options.max_running = 3;
  options.state_bytes = static_cast<int64_t>(3 * FakeModel().state_layout().SequenceBytes(500));
  Start(options);
  const Text kept = Run(RandomPrompt(&random_, 40));
  Consumer consumers[2];
  for (Consumer& consumer : consumers) {
    Submit(consumer.Make(++last_id_, RandomPrompt(&random_, 400), 112));
  }
  Step();
  const int64_t before = Cached();
  EXPECT_GT(before, 0);
  const SavedState state = MadeUp(512);
  EXPECT_TRUE(absl::IsResourceExhausted(Write(state, 0, 1)));
  EXPECT_EQ(Cached(), before);
  EXPECT_TRUE(absl::IsAborted(Write(state, 1, 100)));
  // What fits begins there.
  const SavedState shorter = MadeUp(40);
  EXPECT_EQ(Write(shorter, 0, 1), absl::OkStatus());
  RunUntilIdle();
}

// A piece may come after its writer has waited long enough: it is not gone on with.
TEST_F(StateInPiecesTest, WhoWaitsNoLongerLeavesNothing) {
  Start(Small());
  const SavedState state = MadeUp(100);
  {
    StateWriter writer({engine_.get(), std::chrono::milliseconds(1)}, state.position, /*dial=*/0);
    EXPECT_TRUE(absl::IsUnavailable(writer.Write(state.parts.substr(0, 100))));
    Step();
    EXPECT_GT(Cached(), 0);
    EXPECT_TRUE(absl::IsUnavailable(writer.Write(state.parts.substr(100))));
    EXPECT_TRUE(absl::IsUnavailable(writer.Keep({}, state.tokens)));
    Step();
  }
  Step();
  EXPECT_EQ(Cached(), 0);
  EXPECT_EQ(Save(state.tokens)->position, 0);
}

// The copies of one step are bounded; the others come in the next ones, in order.
TEST_F(StateInPiecesTest, AStepCopiesFew) {
  FakeModel::Options model;
  model.max_context = 200000;
  EngineOptions options = Small();
  options.max_running = 2;
  Start(options, model);
  const SavedState state = MadeUp(100000);
  ASSERT_GT(static_cast<int64_t>(state.parts.size()), 2 * kMostPieceBytes);
  int64_t at = 0;
  for (; at < static_cast<int64_t>(state.parts.size()); at += kMostPieceBytes) {
    ASSERT_EQ(Write(state, at, kMostPieceBytes), absl::OkStatus());
  }
  ASSERT_EQ(Keep(state.tokens), absl::OkStatus());
  std::vector<int> answered;
  for (int i = 0; i < 3; ++i) {
    engine_->ReadState({}, Shared(state.tokens), {}, 0, kMostPieceBytes,
                       [&answered, i](const auto& piece) {
                         EXPECT_TRUE(piece.ok()) << piece.status();
                         answered.push_back(i);
                       });
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(Step());
    ASSERT_EQ(answered.size(), i + 1u);
    EXPECT_EQ(answered.back(), i);
  }
  // The end of the engine is told to those that still wait.
  int unavailable = 0;
  const auto read = [&] {
    engine_->ReadState({}, Shared(state.tokens), {}, 0, kMostPieceBytes, [&](const auto& piece) {
      unavailable += absl::IsUnavailable(piece.status());
    });
  };
  for (int i = 0; i < 3; ++i) read();
  Step();
  read();  // Behind those.
  engine_.reset();
  EXPECT_EQ(unavailable, 3);
}

// Nor more of those that waited for the disk, all of which may be there at once.
TEST_F(StateInPiecesTest, AStepCopiesFewThatComeFromTheDisk) {
  const std::string folder = ::testing::TempDir() + "/disk_states";
  std::filesystem::remove_all(folder);
  FakeModel::Options model;
  model.max_context = 60000;
  const auto one = static_cast<int64_t>(FakeModel(model).state_layout().SequenceBytes(60000));
  EngineOptions options = Small();
  options.max_running = 1;
  options.state_bytes = one;  // Each state drives the one before out of the pool.
  options.state_host_memory = one * 3 / 2;
  options.state_dir = folder;
  options.state_disk = 10 * one;
  Start(options, model);
  Text first;
  for (int i = 0; i < 4; ++i) {
    const SavedState state = MadeUp(59000);
    ASSERT_GT(static_cast<int64_t>(state.parts.size()), kMostPieceBytes);
    if (i == 0) first = state.tokens;
    LoadWhole(engine_.get(), {}, state,
              [](const absl::Status& s) { EXPECT_EQ(s, absl::OkStatus()); });
    Step();
    Step();
    while (i > 0 && engine_->stats().tiers.moved_to_disk < i) {
      absl::SleepFor(absl::Milliseconds(10));
      Step();
    }
  }
  int answered = 0;
  for (int i = 0; i < 3; ++i) {
    engine_->ReadState({}, Shared(first), {}, 0, kMostPieceBytes, [&answered](const auto& piece) {
      EXPECT_TRUE(piece.ok()) << piece.status();
      ++answered;
    });
  }
  while (answered == 0) {
    Step();
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_EQ(answered, 1);
  for (int i = 2; i <= 3; ++i) {
    EXPECT_TRUE(Step());
    EXPECT_EQ(answered, i);
  }
  EXPECT_EQ(engine_->stats().tiers.read_from_disk, 1);
}

// Step by step, while others run and take what they need.
TEST_F(EngineStateTest, ComesAndGoesWhileOthersRun) {
  EngineOptions options = Small();
  Start(options);
  const Text text = Run(RandomPrompt(&random_, 70));
  const SavedState saved = *Save(text);
  options.state_bytes = 3 * static_cast<int64_t>(model_->state_layout().SequenceBytes(512));
  Start(options);
  std::vector<std::unique_ptr<Consumer>> others;
  std::vector<Text> prompts;
  int loaded = 0, refused = 0, found = 0;
  for (int i = 0; i < 60; ++i) {
    prompts.push_back(RandomPrompt(&random_, 1 + random_() % 120));
    others.push_back(std::make_unique<Consumer>());
    Submit(others.back()->Make(++last_id_, prompts.back(), 20));
    for (int steps = random_() % 8; steps > 0; --steps) Step();
    const absl::Status status = Load(saved);
    loaded += status.ok() ? 1 : 0;
    refused += absl::IsResourceExhausted(status) ? 1 : 0;
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    const auto again = Save(text);
    ASSERT_TRUE(again.ok()) << again.status();
    // Whoever was admitted since may have needed its room.
    found += again->position > 0 ? 1 : 0;
    EXPECT_TRUE(again->position == 0 || again->parts == saved.parts);
  }
  RunUntilIdle();
  EXPECT_GE(loaded, found);
  EXPECT_GT(found, 0);
  EXPECT_GT(refused, 0);
  for (size_t i = 0; i < others.size(); ++i) {
    others[i]->Poll();
    EXPECT_EQ(others[i]->tokens, model_->GreedyAfter(prompts[i], 20));
  }
  EXPECT_EQ(Load(saved), absl::OkStatus());
  Run(text);
  EXPECT_EQ(cached_tokens_, saved.position);
  ExpectAllFree();
}

TEST_F(EngineStateTest, WithoutACacheTextsComeAndGoAlone) {
  Start(Small());
  const Text text = Run(RandomPrompt(&random_, 50));
  const SavedState saved = *Save(text);
  EngineOptions options = Small();
  options.prefix_cache = false;
  Start(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(Load(saved)));
  EXPECT_EQ(Save(text)->position, 0);
}

TEST_F(EngineStateTest, NobodyWaitsForAnEngineThatIsGone) {
  Start(Small());
  const SavedState saved = *Save(Run(RandomPrompt(&random_, 50)));
  absl::Status status;
  LoadWhole(engine_.get(), {}, saved, [&](const absl::Status& s) { status = s; });
  engine_.reset();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;

  Start(Small());
  model_->wait_status = absl::InternalError("cudaErrorIllegalAddress");
  Consumer consumer;
  Submit(consumer.Make(1, RandomPrompt(&random_, 4), 100));
  Step();
  EXPECT_TRUE(absl::IsUnavailable(Load(saved)));
  EXPECT_TRUE(absl::IsUnavailable(Save(saved.tokens).status()));
}

}  // namespace
}  // namespace packrat
