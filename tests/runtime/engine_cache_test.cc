// Requests that begin where others left off: what they get is what they would have got alone, and
// what they do not compute is what is counted.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/engine_fixture.h"
#include "tests/runtime/fake_model.h"
#include "tests/runtime/state_pieces.h"

namespace packrat {
namespace {

using Text = std::vector<int32_t>;

Text Join(Text a, const Text& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class EngineCacheTest : public EngineTest {
 protected:
  // Runs one request to its end, alone.
  Consumer Run(const Text& prompt, int count, const CacheParams& cache = {},
               const std::string& tenant = "") {
    Consumer c;
    Request request = c.Make(++id_, prompt, count);
    request.cache = cache;
    request.tenant = tenant;
    Submit(std::move(request));
    RunUntilIdle();
    c.Poll();
    EXPECT_TRUE(c.finish.has_value() && c.finish->status.ok());
    EXPECT_EQ(c.tokens, model_->GreedyAfter(prompt, count));
    return c;
  }
  int Cached(const Consumer& c) { return c.finish->usage.cached_tokens; }
  CacheMiss Miss(const Consumer& c) { return c.finish->usage.cache_miss; }
  int64_t PromptTokens() { return engine_->stats().prompt_tokens; }

  uint64_t id_ = 0;
};

TEST_F(EngineCacheTest, ATurnCostsItsNewTokens) {
  for (const bool ahead : {false, true}) {
    FakeModel::Options model;
    model.ahead = ahead;
    Start(Small(), model);
    Text text = RandomPrompt(&random_, 50);
    const Consumer first = Run(text, 20);
    EXPECT_EQ(Cached(first), 0);
    EXPECT_EQ(Miss(first), CacheMiss::kFirstUse);
    text = Join(text, first.tokens);
    for (int turn = 0; turn < 8; ++turn) {
      text = Join(text, RandomPrompt(&random_, 7 + turn));
      const int64_t before = PromptTokens();
      const Consumer next = Run(text, 11 + turn);
      // The last token of a text is in its state only where a step was ahead of it.
      const int left = static_cast<int>(text.size()) - Cached(next);
      EXPECT_EQ(left, 7 + turn + 1) << "turn " << turn;
      EXPECT_EQ(PromptTokens() - before, left);
      EXPECT_EQ(Miss(next), CacheMiss::kNone);
      text = Join(text, next.tokens);
    }
    ExpectAllFree();
    // One at the end of each, and at the end of the first prompt, in room for eight sequences.
    EXPECT_EQ(engine_->stats().cache.snapshots + engine_->stats().cache.dropped, 10);
    EXPECT_EQ(engine_->stats().cache.lookups[static_cast<int>(CacheMiss::kNone)], 8);
    EXPECT_EQ(engine_->stats().cache.lookups[static_cast<int>(CacheMiss::kFirstUse)], 1);
  }
}

TEST_F(EngineCacheTest, ASharedBeginningHitsFromItsThirdUse) {
  Start(Small());
  const Text system = RandomPrompt(&random_, 70);
  const int cached[] = {0, 0, 64, 64, 64};
  const CacheMiss miss[] = {CacheMiss::kFirstUse, CacheMiss::kNoSnapshot, CacheMiss::kNone,
                            CacheMiss::kNone, CacheMiss::kNone};
  for (int i = 0; i < 5; ++i) {
    const Consumer c = Run(Join(system, {10 + i, 20, 30, 40}), 5);
    EXPECT_EQ(Cached(c), cached[i]) << i;
    EXPECT_EQ(Miss(c), miss[i]) << i;
  }
  EXPECT_EQ(engine_->stats().cache.cached_tokens, 3 * 64);
}

// Without anything shared, prompts are cut as without a cache.
TEST_F(EngineCacheTest, NothingIsCutWithoutAReason) {
  Start(Small());
  Consumer c;
  Submit(c.Make(++id_, RandomPrompt(&random_, 75), 3));
  std::vector<int> cuts;
  while (!engine_->idle()) {
    Step();
    for (const Span& span : spans_) cuts.push_back(span.num_tokens);
  }
  EXPECT_EQ(cuts, (std::vector<int>{32, 32, 11, 1, 1}));
}

// What stands on the way of a long prompt goes first, not the state at its end.
TEST_F(EngineCacheTest, ALongPromptLeavesItsEnd) {
  EngineOptions options = Small();
  options.max_running = 1;
  options.cache_sequences = 2;
  FakeModel::Options model;
  model.max_context = 10000;
  model.full = false;  // It takes time by the square of the length.
  Start(options, model);
  Text text = RandomPrompt(&random_, 9000);
  Consumer c;
  Submit(c.Make(++id_, text, 1));
  RunUntilIdle();
  EXPECT_EQ(engine_->stats().cache.snapshots, 3);  // At 4096, 8192 and the end.
  for (int turn = 0; turn < 3; ++turn) {
    Consumer next;
    text.push_back(5 + turn);
    Submit(next.Make(++id_, text, 1));
    RunUntilIdle();
    next.Poll();
    EXPECT_EQ(Cached(next), 9000 + turn);
  }
}

TEST_F(EngineCacheTest, TheSamePromptAgainComputesItsEndAlone) {
  Start(Small());
  const Text prompt = RandomPrompt(&random_, 60);
  Run(prompt, 5);
  Run(prompt, 5);
  EXPECT_EQ(Cached(Run(prompt, 5)), 48);  // 59 of 60 are shared, and a cut is at a block's end.
  CacheParams cache;
  cache.snapshot_at = 59;
  Run(prompt, 5, cache);
  EXPECT_EQ(Cached(Run(prompt, 5)), 59);
}

// Of a long one there is a state before its last piece, which costs no step.
TEST_F(EngineCacheTest, ALongPromptAgainComputesItsLastPieceAlone) {
  Start(Small());  // Pieces of 32 tokens.
  const Text prompt = RandomPrompt(&random_, 200);
  Run(prompt, 5);
  EXPECT_EQ(engine_->stats().cache.snapshots, 3);  // There, at the prompt's end and the answer's.
  EXPECT_EQ(Cached(Run(prompt, 5)), 192);
  EXPECT_EQ(Cached(Run(prompt, 5)), 192);
  // Not where less than 128 tokens are new.
  const int64_t before = engine_->stats().cache.snapshots;
  Run(Join(prompt, RandomPrompt(&random_, 100)), 5);
  EXPECT_EQ(engine_->stats().cache.snapshots - before, 2);
  for (const int tokens : {150, 120}) {  // Last pieces begin at 128 and at 96.
    Start(Small());
    Run(RandomPrompt(&random_, tokens), 5);
    EXPECT_EQ(engine_->stats().cache.snapshots, tokens == 150 ? 3 : 2);
  }
  // Nor where it would copy more than 64 KB for each of them.
  FakeModel::Options wide;
  wide.window_heads = 4096;
  Start(Small(), wide);
  Run(prompt, 5);
  EXPECT_EQ(engine_->stats().cache.snapshots, 2);
  // Nor where the same again could not begin with it, since all of it is scored.
  Start(Small());
  Consumer scored;
  Request request = scored.Make(++id_, prompt, 1);
  request.score_from = 1;
  Submit(std::move(request));
  RunUntilIdle();
  EXPECT_EQ(engine_->stats().cache.snapshots, 1);
}

// In a full pool nothing gives way to it, and the third use hits as that of a short one does.
TEST_F(EngineCacheTest, ALongPromptAgainAmongMany) {
  Start(Small());
  for (int i = 0; i < 40; ++i) Run(RandomPrompt(&random_, 150), 5);
  ASSERT_EQ(engine_->stats().pools[kTailParts].cached, engine_->stats().pools[kTailParts].total);
  const Text prompt = RandomPrompt(&random_, 200);
  const int cached[] = {0, 0, 192};
  for (const int tokens : cached) EXPECT_EQ(Cached(Run(prompt, 5)), tokens);
}

// The first of a group leaves a state for the others, and one where its prompt leaves an earlier
// one.
TEST_F(EngineCacheTest, ASharedBeginningOfGroupsHitsFromItsThirdUse) {
  Start(Small());
  const Text header = RandomPrompt(&random_, 70);
  const int cached[] = {0, 0, 64, 64};
  for (int use = 0; use < 4; ++use) {
    const Text prompt = Join(header, RandomPrompt(&random_, 40));
    Consumer members[2];
    std::vector<Request> group;
    for (Consumer& member : members) {
      group.push_back(member.Make(++id_, prompt, 5));
      group.back().cache.snapshot_at = 96;
    }
    ASSERT_EQ(engine_->Submit(std::move(group), now_), absl::OkStatus());
    RunUntilIdle();
    for (Consumer& member : members) {
      member.Poll();
      EXPECT_EQ(member.tokens, model_->GreedyAfter(prompt, 5));
    }
    EXPECT_EQ(Cached(members[0]), cached[use]) << use;
    EXPECT_EQ(Cached(members[1]), 96) << use;
  }
}

TEST_F(EngineCacheTest, WhoDoesNotShareSeesNothing) {
  EngineOptions options = Small();
  options.cache_sequences = 20;
  Start(options);
  const Text prompt = RandomPrompt(&random_, 60);
  Run(prompt, 5);
  const Text longer = Join(Join(prompt, model_->GreedyAfter(prompt, 5)), {5, 6, 7});
  CacheParams off;
  off.use = false;
  CacheParams salt;
  salt.salt = "pepper";
  EXPECT_EQ(Miss(Run(longer, 5, off)), CacheMiss::kOff);
  EXPECT_EQ(Miss(Run(longer, 5, salt)), CacheMiss::kFirstUse);
  EXPECT_EQ(Miss(Run(longer, 5, {}, "else")), CacheMiss::kFirstUse);
  // A tenant and a salt that read alike one after the other.
  salt.salt = "b";
  Run(prompt, 5, salt, "a");
  salt.salt = "";
  EXPECT_EQ(Miss(Run(longer, 5, salt, "ab")), CacheMiss::kFirstUse);

  Consumer c;
  Request request = c.Make(++id_, longer, 5);
  request.solver.cg_max_steps = 7;
  Submit(std::move(request));
  RunUntilIdle();
  c.Poll();
  EXPECT_EQ(Miss(c), CacheMiss::kFirstUse);
  EXPECT_EQ(Cached(Run(longer, 5)), 64);
}

TEST_F(EngineCacheTest, TheServerCanDoWithout) {
  EngineOptions options = Small();
  options.prefix_cache = false;
  Start(options);
  const Text prompt = RandomPrompt(&random_, 60);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Miss(Run(prompt, 5)), CacheMiss::kOff);
  EXPECT_EQ(engine_->stats().cache.snapshots, 0);
  for (const EngineStats::Pool& pool : engine_->stats().pools) EXPECT_EQ(pool.cached, 0);
}

// One sequence's parts: whoever begins with a state takes it over, and what is kept never keeps
// anybody out.
TEST_F(EngineCacheTest, WhereThereIsRoomForOneOnly) {
  EngineOptions options = Small();
  options.max_running = 1;
  Start(options);
  Text text = RandomPrompt(&random_, 40);
  for (int turn = 0; turn < 6; ++turn) {
    const Consumer c = Run(text, 10);
    EXPECT_EQ(Cached(c), turn > 0 ? static_cast<int>(text.size()) - 4 : 0);
    text = Join(Join(text, c.tokens), {4, 5, 6});
    EXPECT_EQ(engine_->stats().cache.snapshots, 1);
    EXPECT_EQ(engine_->stats().pools[kSlotParts].cached, 1);
  }
  const Consumer other = Run(RandomPrompt(&random_, 400), 100);
  EXPECT_EQ(Miss(other), CacheMiss::kFirstUse);
  EXPECT_EQ(Miss(Run(text, 5)), CacheMiss::kEvicted);
}

TEST_F(EngineCacheTest, ACancelledRequestLeavesWhatItHas) {
  for (const bool ahead : {false, true}) {
    FakeModel::Options model;
    model.ahead = ahead;
    Start(Small(), model);
    const Text prompt = RandomPrompt(&random_, 100);
    Consumer c;
    Submit(c.Make(++id_, prompt, 5));
    Step();
    Step();
    engine_->Cancel(id_);
    Step();
    RunUntilIdle();
    EXPECT_EQ(Cached(Run(prompt, 5)), 64);
  }
}

// What a sequence left on its way goes with it, if it goes bad.
TEST_F(EngineCacheTest, ABadStateIsNeverKept) {
  for (const int32_t bad : {FakeModel::kNotFiniteToken, FakeModel::kNanLogitsToken}) {
    for (const bool ahead : {false, true}) {
      FakeModel::Options model;
      model.ahead = ahead;
      Start(Small(), model);
      const Text prompt = RandomPrompt(&random_, 100);
      Consumer c;
      Text poisoned = prompt;
      poisoned.back() = bad;
      Request request = c.Make(++id_, poisoned, 5);
      request.cache.snapshot_at = 48;
      Submit(std::move(request));
      RunUntilIdle();
      c.Poll();
      EXPECT_EQ(c.finish->reason, FinishReason::kError);
      EXPECT_EQ(engine_->stats().cache.snapshots, 0);
      EXPECT_EQ(Cached(Run(prompt, 5)), 0);
    }
  }
}

// What was computed last is not known to be good when its request is cancelled: until it is known,
// the state goes nowhere.
TEST_F(EngineCacheTest, AStateIsNobodysBeforeItsLastStepIsRead) {
  for (const int32_t bad : {FakeModel::kNotFiniteToken, FakeModel::kNanLogitsToken}) {
    FakeModel::Options model;
    model.ahead = true;
    Start(Small(), model);
    Text prompt = RandomPrompt(&random_, 40);
    prompt.back() = bad;
    Consumer cancelled, heir;
    Submit(cancelled.Make(++id_, prompt, 5));
    Step();
    Step();  // It starts the bad token.
    engine_->Cancel(id_);
    // Whoever would begin with the state has not to compute that token.
    Submit(heir.Make(++id_, Join(prompt, {5, 6, 7}), 5));
    absl::StatusOr<SavedState> saved = absl::UnknownError("not called");
    SaveWhole(engine_.get(), {}, prompt, [&](auto state) { saved = std::move(state); });
    Step();
    cancelled.Poll();
    EXPECT_EQ(cancelled.finish->reason, FinishReason::kCancelled);
    ASSERT_TRUE(saved.ok()) << saved.status();
    EXPECT_EQ(saved->position, 0);
    RunUntilIdle();
    heir.Poll();
    EXPECT_EQ(heir.finish->usage.cached_tokens, 0);
    EXPECT_EQ(engine_->stats().cache.snapshots, 0);
  }
}

// Two states of one block have one slot. Where that is the only one left, who begins with one of
// them takes it over, and the other goes too.
TEST_F(EngineCacheTest, AStateWhoseSlotAnotherHasToo) {
  EngineOptions options = Small();
  options.max_running = 3;
  options.cache_sequences = 2;
  Start(options);
  CacheParams cache;
  cache.snapshot_at = 128;
  cache.importance = 1;
  Text text = RandomPrompt(&random_, 130);
  text = Join(text, Run(text, 12, cache).tokens);  // At 128 and at 141.
  ASSERT_EQ(engine_->stats().cache.snapshots, 2);
  ASSERT_EQ(engine_->stats().pools[kSlotParts].cached, 1);
  // They hold a slot for themselves and one that a state of theirs has, until their block ends.
  Consumer others[2], heir;
  for (const int used : {2, 4}) {
    Request request = others[used / 2 - 1].Make(++id_, RandomPrompt(&random_, 66), 12);
    request.cache.snapshot_at = 64;
    Submit(std::move(request));
    for (int i = 0; i < 6 && engine_->stats().pools[kSlotParts].used < used; ++i) Step();
    ASSERT_EQ(engine_->stats().pools[kSlotParts].used, used);
  }
  ASSERT_EQ(engine_->stats().pools[kSlotParts].total, 5);
  ASSERT_EQ(engine_->stats().pools[kSlotParts].cached, 1);
  text = Join(text, {5, 6, 7});
  Submit(heir.Make(++id_, text, 5));
  Step();
  EXPECT_EQ(engine_->stats().pools[kSlotParts].used, 5);
  RunUntilIdle();
  heir.Poll();
  EXPECT_EQ(Cached(heir), 141);
  EXPECT_EQ(heir.tokens, model_->GreedyAfter(text, 5));
  ExpectAllFree();
}

// Sequences that run leave nothing, but room for the cache beside them makes no difference to how
// many run.
TEST_F(EngineCacheTest, RoomOfItsOwn) {
  EngineOptions options = Small();
  options.max_running = 2;
  options.cache_sequences = 8;
  Start(options);
  EXPECT_EQ(engine_->stats().pools[kSlotParts].total, 10);
  EXPECT_FALSE(engine_->stats().pools[kSlotParts].short_of_memory);
  std::vector<Text> texts;
  for (int i = 0; i < 3; ++i) {
    texts.push_back(RandomPrompt(&random_, 40));
    texts.back() = Join(Join(texts.back(), Run(texts.back(), 5).tokens), {9, 9});
  }
  Consumer a, b;
  Submit(a.Make(++id_, RandomPrompt(&random_, 10), 40));
  Submit(b.Make(++id_, RandomPrompt(&random_, 10), 40));
  RunUntilIdle();
  for (const Text& text : texts) EXPECT_EQ(Cached(Run(text, 2)), 44);
}

TEST_F(EngineCacheTest, ALostDeviceLosesAllStates) {
  Start(Small());
  Run(RandomPrompt(&random_, 40), 5);
  EXPECT_GT(engine_->stats().cache.snapshots, 0);
  model_->wait_status = absl::InternalError("gone");
  Consumer c;
  Submit(c.Make(++id_, RandomPrompt(&random_, 40), 5));
  Step();
  Step();
  EXPECT_EQ(engine_->stats().cache.snapshots, 0);
}

}  // namespace
}  // namespace packrat
