// What the plan of a small memory says, against an engine that has it: as many sequences run, and
// of as many texts the state is kept, in the pool, beside it and on the disk, and of one more not.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "runtime/capacity.h"
#include "runtime/memory_plan.h"
#include "runtime/saved_state.h"
#include "runtime/state_tiers.h"
#include "tests/runtime/golden_engine.h"
#include "tests/runtime/session_fixture.h"
#include "tests/runtime/state_pieces.h"

namespace packrat {
namespace {

class PlanAgreementTest : public GoldenEngineTest {
 protected:
  PlanAgreementTest() {
    model_options_.max_batch_tokens = model_options_.max_logit_rows = 64;
    model_options_.threads = 1;
    options_.max_batch_tokens = 64;
    options_.max_running = 40;
    options_.max_context = 256;
    options_.park_memory = 0;
  }

  // Of a server whose memory leaves so much for state.
  void Plan(int64_t state_bytes) {
    const auto measured = MeasureModel("tests/golden/" + GetParam(), model_options_);
    ASSERT_TRUE(measured.ok()) << measured.status();
    Resources resources;
    resources.memory_limit = int64_t{4} << 30;
    resources.memory_limit_is_own = true;
    // More for the one is less for another, which follows the limit.
    for (int i = 0; i < 10; ++i) {
      resources.memory_available = resources.memory_limit;
      plan_ = MemoryPlan();
      const CallLimits calls = {100, int64_t{4} << 20};
      ASSERT_EQ(PlanMemory(*measured, model_options_, options_, calls, resources, &plan_),
                absl::OkStatus());
      resources.memory_limit += state_bytes - plan_.state_room;
    }
    ASSERT_LE(plan_.state, state_bytes);
    model_ = Load(model_options_);
    ASSERT_NE(model_, nullptr);
  }
  int64_t SequenceBytes(int tokens) const {
    return static_cast<int64_t>(StateLayout(Config()).SequenceBytes(tokens));
  }
  ModelConfig Config() const {
    return MeasureModel("tests/golden/" + GetParam(), model_options_)->config;
  }

  // The next shorter length of which the plan knows to the block what a state takes in a file: of
  // its header it knows the most; it has 128 bytes at least.
  int KnownToTheBlock(int tokens) const {
    const auto blocks = [&](int position, int64_t header) {
      return WholeBlocks(static_cast<int64_t>(SavedPartBytes(*plan_.layout, position)) +
                         int64_t{4} * position + header);
    };
    while (blocks(tokens - 1, 128) != blocks(tokens, 512)) --tokens;
    return tokens;
  }
  // A turn of a session after which its text has so many tokens; the last one is not computed.
  void Turn(Engine* engine, int tokens) {
    Consumer consumer;
    const Text prompt = RandomText(*model_, tokens - 3);
    Request request = Make(&consumer, texts_.size() + 1, prompt, 3);
    request.cache.importance = 1;
    space_ = SpaceOf(request);
    Submit(engine, std::move(request));
    RunUntilIdle(engine);
    consumer.Poll();
    ASSERT_EQ(consumer.finish->status, absl::OkStatus());
    texts_.push_back(prompt);
    texts_.back().insert(texts_.back().end(), consumer.tokens.begin(), consumer.tokens.end() - 1);
  }
  // Of how many texts the state is here or on the disk.
  int64_t Kept(Engine* engine) {
    int64_t kept = 0;
    for (const Text& text : texts_) {
      bool answered = false;
      engine->ReadState(
          space_, Shared(text), {}, 0, 0, [&](const absl::StatusOr<StatePiece>& piece) {
            answered = true;
            EXPECT_TRUE(piece.ok()) << piece.status();
            kept += piece.ok() && piece->from.position == static_cast<int>(text.size());
          });
      while (!answered) Step(engine);
    }
    return kept;
  }
  // Until the disk has what it is given.
  static EngineStats Settled(Engine* engine, int64_t in_memory) {
    const absl::Time give_up = absl::Now() + absl::Seconds(60);
    while (engine->stats().tiers.memory.states > in_memory && absl::Now() < give_up) {
      absl::SleepFor(absl::Microseconds(200));
      Step(engine);
    }
    return engine->stats();
  }
  void FillWithTexts(int longest);

  ModelOptions model_options_;
  EngineOptions options_;
  MemoryPlan plan_;
  std::unique_ptr<LanguageModel> model_;
  std::vector<Text> texts_;
  StateSpace space_;  // Theirs.
};

TEST_P(PlanAgreementTest, AsManySequencesRunAtOnce) {
  ASSERT_NO_FATAL_FAILURE(Plan(5 * SequenceBytes(256) + SequenceBytes(256) / 2));
  int short_of_memory = 0;
  for (const int tokens : {20, 64, 100, 256}) {
    SCOPED_TRACE(tokens);
    const int fit = std::min(options_.max_running, SequencesOf(*plan_.layout, plan_.parts, tokens));
    ASSERT_GE(fit, 3);
    short_of_memory += fit < options_.max_running;
    const auto engine = Start(model_.get(), plan_.options);
    std::vector<Consumer> consumers(fit + 1);
    for (int i = 0; i <= fit; ++i) {
      Submit(engine.get(), Make(&consumers[i], i, RandomText(*model_, 1), tokens - 1));
    }
    for (int i = 0; i < 4; ++i) Step(engine.get());
    EngineStats stats = engine->stats();
    EXPECT_EQ(stats.running, fit);
    EXPECT_EQ(stats.waiting, 1);
    EXPECT_EQ(stats.blocked, fit < options_.max_running ? Blocked::kMemory : Blocked::kMaxRunning);
    engine->Cancel(0);
    for (int i = 0; i < 4; ++i) Step(engine.get());
    stats = engine->stats();
    EXPECT_EQ(stats.running, fit);
    EXPECT_EQ(stats.waiting, 0);
  }
  EXPECT_GT(short_of_memory, 0);
  // So it prints of the longest.
  const Capacity row = CapacityOf(*plan_.layout, plan_.parts, plan_.options, {}).back();
  EXPECT_EQ(row.tokens, 256);
  EXPECT_EQ(row.sequences,
            std::min(options_.max_running, SequencesOf(*plan_.layout, plan_.parts, row.tokens)));
}

// Into an engine, one after the other, as many as it says and then one more for each place.
void PlanAgreementTest::FillWithTexts(int longest) {
  const int tokens = KnownToTheBlock(longest);
  SCOPED_TRACE(tokens);
  const KeptStates says = KeptStatesOf(*plan_.layout, plan_.parts, plan_.options, tokens);
  const bool folder = !plan_.options.state_dir.empty();
  ASSERT_GE(says.pool, 2);
  ASSERT_GE(says.memory, 2);
  ASSERT_EQ(says.disk > 0, folder);
  const auto engine = Start(model_.get(), plan_.options);
  texts_.clear();
  const auto run = [&](int64_t count) {
    while (static_cast<int64_t>(texts_.size()) < count) {
      Turn(engine.get(), tokens);
      ASSERT_FALSE(HasFatalFailure());
      if (folder) Settled(engine.get(), says.memory);
    }
  };
  run(says.pool);
  EXPECT_EQ(engine->stats().tiers.moved_to_memory, 0);
  EXPECT_EQ(Kept(engine.get()), says.pool);
  run(says.pool + 1);
  EXPECT_EQ(engine->stats().tiers.memory.states, 1);
  run(says.pool + says.memory);
  EXPECT_EQ(engine->stats().tiers.memory.states, says.memory);
  EXPECT_EQ(engine->stats().tiers.moved_to_disk, 0);
  if (folder) {
    run(says.pool + says.memory + 1);
    EXPECT_EQ(engine->stats().tiers.disk.states, 1);
    run(says.all());
    EXPECT_EQ(engine->stats().tiers.disk.states, says.disk);
  }
  EXPECT_EQ(engine->stats().tiers.dropped, 0);
  if (!folder) {
    EXPECT_EQ(Kept(engine.get()), says.all());
  }
  run(says.all() + 1);
  EXPECT_EQ(engine->stats().tiers.dropped, 1);
  if (!folder) {
    EXPECT_EQ(Kept(engine.get()), says.all());
  }
}

TEST_P(PlanAgreementTest, OfAsManyTextsTheStateIsKept) {
  options_.max_running = 1;
  options_.cache_sequences = 5;
  options_.state_host_memory = 4 * SequenceBytes(256) + (40 << 10);
  ASSERT_NO_FATAL_FAILURE(Plan(6 * SequenceBytes(256)));
  for (const int tokens : {100, 150, 256}) ASSERT_NO_FATAL_FAILURE(FillWithTexts(tokens));
}

TEST_P(PlanAgreementTest, AndOnTheDisk) {
  options_.max_running = 1;
  options_.cache_sequences = 2;
  options_.state_host_memory = 6 * SequenceBytes(256) + (80 << 10);
  options_.state_dir = ::testing::TempDir() + "planned_states";
  options_.state_disk = 3 * SequenceBytes(256) + (40 << 10);
  ASSERT_NO_FATAL_FAILURE(Plan(3 * SequenceBytes(256)));
  for (const int tokens : {100, 256}) ASSERT_NO_FATAL_FAILURE(FillWithTexts(tokens));
}

// A RAT model, a Mesa model, one with full attention, and all of these with a window.
INSTANTIATE_TEST_SUITE_P(Models, PlanAgreementTest,
                         ::testing::Values("rat", "mesa_net", "llama", "packrat"),
                         [](const auto& info) { return info.param; });

class PlannedSessionsTest : public SessionTest {
 protected:
  static constexpr int kSessions = 6;
  static constexpr int64_t kTokens = 3000;
  PlannedSessionsTest() : SessionTest({kSessions, kTokens, absl::Minutes(10)}) {}
};

TEST_F(PlannedSessionsTest, AsManyAreIdleAtOnce) {
  const auto measured = MeasureModel("tests/golden/rat", ModelOptions());
  ASSERT_TRUE(measured.ok()) << measured.status();
  const StateLayout layout(measured->config);
  EngineOptions options;
  options.max_context = 1024;
  const PartCounts parts = SequenceNeeds(layout, options.max_context);
  for (const Capacity& row :
       CapacityOf(layout, parts, options, {kSessions, kTokens, absl::Minutes(10)})) {
    SCOPED_TRACE(row.tokens);
    std::vector<std::string> handles;
    for (;;) {
      const auto made = sessions_.Create({}, std::nullopt, now_);
      if (!made.ok()) break;
      handles.push_back(made->handle);
      if (!TakeTurn(made->handle, Tokens(row.tokens - 5, 7), Tokens(5, 8)).ok()) break;
    }
    int64_t whole = 0;
    for (const std::string& handle : handles) {
      whole += static_cast<int>(TextOf(handle).size()) == row.tokens;
      EXPECT_EQ(sessions_.Delete({}, handle, now_), absl::OkStatus());
    }
    EXPECT_EQ(whole, row.idle_sessions);
  }
}

}  // namespace
}  // namespace packrat
