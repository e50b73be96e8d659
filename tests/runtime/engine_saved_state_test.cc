// Texts that leave one engine as bytes and go on in another: with the golden models, and so all
// kinds of layers, the bits of every token are those of an engine that keeps nothing.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "runtime/saved_state.h"
#include "tests/runtime/golden_engine.h"
#include "tests/runtime/state_pieces.h"

namespace packrat {
namespace {

// Within a block, at its end, and beyond the windows.
const std::vector<int> kPrompts = kOnGpu ? std::vector<int>{37} : std::vector<int>{10, 23, 58, 150};
constexpr int kGenerated = 9, kMore = 5;
constexpr size_t kPiece = 3333;

class EngineSavedStateTest : public GoldenEngineTest {
 protected:
  // A process of its own, as far as state goes.
  struct Replica {
    std::unique_ptr<LanguageModel> model;
    std::unique_ptr<Engine> engine;
  };
  static Replica StartReplica(bool cached, bool poison = true) {
    Replica replica;
    ModelOptions model_options;
    model_options.max_batch_tokens = 64;
    model_options.max_logit_rows = 8;
    model_options.threads = 1;
    model_options.max_context = 256;
    // What is stored in bfloat16 then attends in it, where the processor can.
    model_options.activations = ActivationType::kAuto;
    replica.model = Load(model_options);
    EngineOptions options;
    options.max_running = 4;
    options.max_batch_tokens = 64;
    options.max_context = 256;
    options.poison_freed_state = poison;
    options.prefix_cache = cached;
    replica.engine = Start(replica.model.get(), options);
    return replica;
  }

  std::unique_ptr<Consumer> Run(const Replica& replica, const Text& prompt) {
    auto consumer = std::make_unique<Consumer>();
    Request request = Make(consumer.get(), ++last_id_, prompt, kGenerated);
    request.tenant = space_.tenant;
    Submit(replica.engine.get(), std::move(request));
    RunUntilIdle(replica.engine.get());
    consumer->Poll();
    return consumer;
  }

  // In pieces, which end anywhere. Empty: it had to give way.
  std::string SaveIfKept(const Replica& replica, const Text& text) {
    SavedState state;
    bool kept = true;
    state.tokens = text;
    state.solver = space_.solver;
    KeptState from;
    for (bool more = true; more;) {
      replica.engine->ReadState(space_, Shared(text), from,
                                static_cast<int64_t>(state.parts.size()), kPiece,
                                [&](const absl::StatusOr<StatePiece>& piece) {
                                  kept = piece.ok();
                                  more = kept && !piece->bytes.empty();
                                  if (more) from = piece->from;
                                  if (more) state.parts += piece->bytes;
                                });
      Step(replica.engine.get());
    }
    if (!kept || state.parts.empty()) return "";
    state.position = from.position;
    return EncodeHeader(state, OwnerOf(*replica.model)) + state.parts;
  }

  std::string Save(const Replica& replica, const Text& text) {
    std::string bytes = SaveIfKept(replica, text);
    EXPECT_FALSE(bytes.empty());
    return bytes;
  }

  SavedState Restore(const Replica& replica, const std::string& bytes) {
    auto state = DecodeSavedState(bytes, OwnerOf(*replica.model));
    EXPECT_TRUE(state.ok()) << state.status();
    const uint64_t number = Engine::NewStateNumber();
    absl::Status status = absl::UnknownError("not called");
    const auto done = [&](const absl::Status& s) { status = s; };
    for (size_t at = 0; at < state->parts.size(); at += kPiece) {
      replica.engine->WriteState(number, state->position, /*dial=*/0, static_cast<int64_t>(at),
                                 state->parts.substr(at, kPiece), done);
      Step(replica.engine.get());
      EXPECT_EQ(status, absl::OkStatus());
    }
    replica.engine->KeepState(number, space_, Shared(state->tokens), done);
    Step(replica.engine.get());
    EXPECT_EQ(status, absl::OkStatus());
    return *std::move(state);
  }

  const StateSpace space_{"tenant", "", {/*cg_tolerance=*/1e-6f}};  // That of Make().
  uint64_t last_id_ = 0;
};

void Append(const std::vector<int32_t>& more, std::vector<int32_t>* text) {
  text->insert(text->end(), more.begin(), more.end());
}

TEST_P(EngineSavedStateTest, AnotherEngineGoesOnWithTheSameBits) {
  const Replica first = StartReplica(/*cached=*/true), second = StartReplica(/*cached=*/true),
                plain = StartReplica(/*cached=*/false);
  for (int size : kPrompts) {
    SCOPED_TRACE(::testing::Message() << "a prompt of " << size);
    Text text = RandomText(*first.model, size);
    Append(Run(first, text)->tokens, &text);
    const std::string bytes = Save(first, text);
    const SavedState state = Restore(second, bytes);
    EXPECT_EQ(state.tokens, text);
    EXPECT_EQ(state.position, static_cast<int>(text.size()) - 1);  // The last was never computed.

    Append(RandomText(*first.model, kMore), &text);
    const auto moved = Run(second, text), alone = Run(plain, text);
    ASSERT_TRUE(moved->finish.has_value());
    EXPECT_EQ(moved->finish->usage.cached_tokens, state.position);
    EXPECT_EQ(moved->tokens, alone->tokens);
    ExpectSameBits(*moved, *alone, alone->tokens.size());
    // What came back can leave again, the same bytes.
    text.resize(state.tokens.size());
    EXPECT_EQ(Save(second, text), bytes);
  }
}

// A state that makes every text of it go bad, as one that a client has made up: a turn fails, and
// the next one computes the text.
// Each turn gets what it would get alone, wherever its conversation has been.
TEST_P(EngineSavedStateTest, ConversationsMoveForkAndRewindAtRandom) {
  const Replica plain = StartReplica(/*cached=*/false);
  const Replica replicas[] = {StartReplica(true), StartReplica(true), StartReplica(true)};
  struct Conversation {
    Text text;
    size_t home;
    bool whole = false;  // It ends as it did after its last turn.
  };
  std::vector<Conversation> all;
  int moved = 0, cached = 0;
  for (int turn = 0; turn < (kOnGpu ? 12 : 80); ++turn) {
    SCOPED_TRACE(turn);
    if (all.size() < 3 || Pick(8) == 0) {
      all.push_back({RandomText(*plain.model, 20 + Pick(40)), static_cast<size_t>(Pick(3))});
    } else if (Pick(4) == 0) {
      all.push_back(Conversation(all[Pick(all.size())]));
    }
    Conversation& one = all[Pick(all.size())];
    if (Pick(4) == 0) {
      one.text.resize(1 + Pick(one.text.size()));
      one.whole = false;
    }
    const auto to = static_cast<size_t>(Pick(3));
    if (to != one.home && one.whole) {
      const std::string bytes = SaveIfKept(replicas[one.home], one.text);
      if (!bytes.empty()) {
        Restore(replicas[to], bytes);
        ++moved;
      }
    }
    one.home = to;
    if (one.text.size() > 200) one.text.resize(100);
    Append(RandomText(*plain.model, 1 + Pick(12)), &one.text);
    const auto here = Run(replicas[to], one.text), alone = Run(plain, one.text);
    ExpectSameBits(*here, *alone, alone->tokens.size());
    if (HasFatalFailure()) return;
    cached += here->finish->usage.cached_tokens > 0;
    Append(here->tokens, &one.text);
    one.whole = true;
  }
  EXPECT_GT(moved, kOnGpu ? 0 : 5);
  EXPECT_GT(cached, kOnGpu ? 2 : 20);
}

TEST_P(EngineSavedStateTest, ABadStateFailsOneTurn) {
  const Replica first = StartReplica(/*cached=*/true), second = StartReplica(/*cached=*/true),
                plain = StartReplica(/*cached=*/false);
  Text text = RandomText(*first.model, 37);
  Append(Run(first, text)->tokens, &text);
  auto state = DecodeSavedState(Save(first, text), OwnerOf(*first.model));
  ASSERT_TRUE(state.ok()) << state.status();
  std::fill(state->parts.begin(), state->parts.end(), '\xFF');
  LoadWhole(second.engine.get(), space_, *state,
            [](const absl::Status& s) { EXPECT_EQ(s, absl::OkStatus()); });
  Append(RandomText(*first.model, kMore), &text);
  EXPECT_EQ(Run(second, text)->finish->reason, FinishReason::kError);
  const auto again = Run(second, text), alone = Run(plain, text);
  EXPECT_EQ(again->finish->usage.cached_tokens, 0);
  ExpectSameBits(*again, *alone, kGenerated);
}

// What others left in parts of the pool stays within the process.
TEST_P(EngineSavedStateTest, HoldsNothingOfOtherTexts) {
  const Replica clean = StartReplica(/*cached=*/true, /*poison=*/false),
                used = StartReplica(/*cached=*/true, /*poison=*/false);
  const Text text = RandomText(*clean.model, 40);
  for (int i = 0; i < 6; ++i) Run(used, RandomText(*used.model, 100 + i));
  Run(clean, text);
  Run(used, text);
  const std::string bytes = Save(clean, text);
  EXPECT_GT(bytes.size(), 40 * sizeof(int32_t));
  EXPECT_EQ(Save(used, text), bytes);
}

INSTANTIATE_TEST_SUITE_P(Models, EngineSavedStateTest, ::testing::ValuesIn(StateModels()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace packrat
