// The prefix cache on the golden models, with the real kernels: conversations that go on, fork and
// come again, in one batch and with little memory, parked for others of higher priority, get what
// each of their requests gets alone from an engine that keeps nothing: the same tokens, and the
// same bits of their log-probabilities. So they do where most states go through memory and files
// before they are used.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "tests/runtime/golden_engine.h"

namespace packrat {
namespace {

// Little on a GPU, since every test also runs on the emulated device.
constexpr int kRequests = kOnGpu ? 10 : 60, kLongest = kOnGpu ? 60 : 160,
              kMostGenerated = kOnGpu ? 12 : 40, kBudget = kOnGpu ? 40 : 96;

struct Case {
  std::vector<int32_t> prompt;
  int count;
  float temperature;
  int priority;
  Consumer consumer;
};

// Where states go that the pool has no room for.
enum class Tiers { kNone, kWhole, kInPieces };

class EngineCacheGoldenTest : public GoldenEngineTest {
 protected:
  std::unique_ptr<LanguageModel> LoadSmall() {
    ModelOptions options;
    options.max_batch_tokens = 256;
    options.max_logit_rows = 32;
    options.threads = 1;
    options.max_context = 256;
    return Load(options);
  }

  std::unique_ptr<Engine> StartEngine(LanguageModel* model, bool cached, int max_running,
                                      Tiers tiers = Tiers::kNone) {
    EngineOptions options;
    options.max_running = max_running;
    options.max_batch_tokens = cached ? kBudget : 256;
    options.max_context = 256;
    options.poison_freed_state = true;
    options.prefix_cache = cached;
    options.cache_sequences = 5;
    options.park_memory = int64_t{1} << 30;
    // Less than the texts want, so that states have to give way.
    options.state_bytes = 6 * static_cast<int64_t>(model->state_layout().SequenceBytes(256));
    if (tiers != Tiers::kNone) {
      // Who goes in pieces is written ahead, while others run.
      options.cache_sequences = tiers == Tiers::kInPieces ? 4 : 0;
      // As much as three of the smallest states take: a block of a disk each.
      options.state_host_memory = std::max(options.state_bytes / 4, int64_t{12} << 10);
      if (tiers == Tiers::kInPieces) options.state_host_memory = 4095;
      options.state_dir = ::testing::TempDir() + "golden_states";
      options.state_disk = std::max(8 * options.state_bytes, int64_t{192} << 10);
    }
    return Start(model, options);
  }

  Request RequestOf(Case* from, Consumer* consumer, uint64_t id) {
    Request request = Make(consumer, id, from->prompt, from->count);
    request.sampling.temperature = from->temperature;
    request.sampling.seed = id;
    request.priority = from->priority;
    request.cache.importance = importance_;
    return request;
  }

  // From nothing, from another prompt's beginning, or from all that another request has got.
  Text NextPrompt(const LanguageModel& model, const std::vector<std::unique_ptr<Case>>& cases) {
    if (cases.size() < 3) return RandomText(model, 1 + Pick(kLongest));
    const Case& from = *cases[Pick(cases.size())];
    Text text = from.prompt;
    if (from.consumer.finish.has_value() && Pick(importance_ > 0 ? 8 : 2)) {
      text.insert(text.end(), from.consumer.tokens.begin(), from.consumer.tokens.end());
    } else if (Pick(2)) {
      text.resize(1 + Pick(text.size()));
    }
    const Text more = RandomText(model, Pick(3) ? 1 + Pick(20) : 0);
    text.insert(text.end(), more.begin(), more.end());
    if (static_cast<int>(text.size()) <= kLongest) return text;
    if (importance_ > 0) return RandomText(model, 1 + Pick(kLongest / 4));
    text.resize(kLongest);
    return text;
  }

  // Has come to its end, and has tokens that were written from a state of others.
  static bool IsCompared(const std::unique_ptr<Case>& one) {
    const Consumer& got = one->consumer;
    return got.finish.has_value() && got.finish->usage.cached_tokens > 0 && !got.tokens.empty();
  }

  // All that runs ends, and what is written ahead reaches the disk.
  static void LetWrite(Engine* engine) {
    for (int quiet = 0; quiet < 3; ++quiet) {
      absl::SleepFor(absl::Microseconds(100));
      while (engine->Step(absl::UnixEpoch()) || engine->stats().tiers.memory.bytes > 0) quiet = 0;
    }
  }

  void Compare(Tiers below);

  int importance_ = 0;
};

void EngineCacheGoldenTest::Compare(Tiers below) {
  const bool tiers = below != Tiers::kNone;
  // What goes in pieces has to be away for others to have it back.
  const int requests = kOnGpu && below == Tiers::kInPieces ? 3 * kRequests : kRequests;
  const auto model = LoadSmall();
  ASSERT_NE(model, nullptr);
  importance_ = tiers ? 1 : 0;
  auto engine = StartEngine(model.get(), /*cached=*/true, /*max_running=*/tiers ? 2 : 4, below);
  std::vector<std::unique_ptr<Case>> cases;
  // Enough of them begin with a state to be a test: texts go on from any earlier one here, which no
  // cache foresees, and how many are back from the disk in time is the disk's matter.
  const int least_found = requests / (tiers ? 15 : 5), least_compared = requests / (tiers ? 12 : 6);
  const auto found = [&] {
    return engine->stats().cache.lookups[static_cast<int>(CacheMiss::kNone)];
  };
  const auto more = [&] {
    const int made = static_cast<int>(cases.size());
    if (made < requests || !tiers || made >= 4 * requests) return made < requests;
    const auto compared = std::count_if(cases.begin(), cases.end(), IsCompared);
    return found() <= least_found || compared <= least_compared;
  };
  while (!engine->idle() || more()) {
    if ((engine->idle() || Pick(10) == 0) && more()) {
      auto next = std::make_unique<Case>();
      next->prompt = NextPrompt(*model, cases);
      next->count = 1 + Pick(kMostGenerated);
      next->temperature = Pick(2) ? 1.0f : 0.0f;
      next->priority = Pick(3);
      Request request = RequestOf(next.get(), &next->consumer, cases.size());
      if (Pick(4) == 0) request.cache.snapshot_at = Pick(next->prompt.size());
      Submit(engine.get(), std::move(request));
      cases.push_back(std::move(next));
    }
    if (Pick(30) == 0 && !cases.empty()) engine->Cancel(Pick(cases.size()));
    Step(engine.get());
    if (below == Tiers::kInPieces && Pick(8) == 0) LetWrite(engine.get());
    if (HasFatalFailure()) return;
    for (auto& one : cases) one->consumer.Poll();
  }
  const EngineStats::Cache stats = engine->stats().cache;
  EXPECT_GT(found(), least_found);
  if (tiers) {
    // How many is the disk's matter, and few run on a GPU.
    EXPECT_GT(engine->stats().tiers.returned, kOnGpu ? 0 : requests / 20);
    EXPECT_GT(engine->stats().tiers.read_from_disk, kOnGpu ? -1 : 0);
    EXPECT_EQ(engine->TakeStateTrouble(), absl::OkStatus());
  } else {
    EXPECT_GT(stats.dropped, requests / 5);
    // On a GPU they are too few for that.
    EXPECT_GT(engine->stats().parking.parks, kOnGpu ? -1 : 0);
  }

  engine = StartEngine(model.get(), /*cached=*/false, /*max_running=*/1);
  int compared = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    const Consumer& cached = cases[i]->consumer;
    ASSERT_TRUE(cached.finish.has_value());
    SCOPED_TRACE(::testing::Message() << "request " << i << ", " << cases[i]->prompt.size()
                                      << " tokens, cached " << cached.finish->usage.cached_tokens);
    Consumer alone;
    Submit(engine.get(), RequestOf(cases[i].get(), &alone, i));
    RunUntilIdle(engine.get());
    alone.Poll();
    // A cancelled one has a part of it.
    const size_t tokens = cached.tokens.size();
    if (cached.finish->status.ok()) {
      EXPECT_EQ(tokens, alone.tokens.size());
    }
    ExpectSameBits(cached, alone, tokens);
    if (HasFatalFailure()) return;
    compared += IsCompared(cases[i]) ? 1 : 0;
  }
  EXPECT_GT(compared, least_compared);
}

TEST_P(EngineCacheGoldenTest, WhatEachWouldGetAlone) { Compare(Tiers::kNone); }
TEST_P(EngineCacheGoldenTest, ThroughMemoryAndDisk) { Compare(Tiers::kWhole); }
// Nothing is small enough for a memory that no block of a disk fits into.
TEST_P(EngineCacheGoldenTest, ThroughTheDiskInPieces) { Compare(Tiers::kInPieces); }

// After so many steps: in the middle of the prompt, at its end, and at each place of a block.
TEST_P(EngineCacheGoldenTest, ParkedAnywhere) {
  const auto model = LoadSmall();
  ASSERT_NE(model, nullptr);
  const auto alone_engine = StartEngine(model.get(), /*cached=*/false, /*max_running=*/1);
  const auto engine = StartEngine(model.get(), /*cached=*/true, /*max_running=*/1);
  int parks = 0;
  for (int steps = 1; steps < (kOnGpu ? 7 : 24); steps += kOnGpu ? 5 : 1) {
    SCOPED_TRACE(steps);
    Consumer low, high, alone;
    const Text prompt = RandomText(*model, kBudget + 30);
    Submit(engine.get(), Make(&low, 2 * steps, prompt, kMostGenerated));
    for (int i = 0; i < steps; ++i) Step(engine.get());
    Request above = Make(&high, 2 * steps + 1, RandomText(*model, 20), 2);
    above.priority = 1;
    Submit(engine.get(), std::move(above));
    RunUntilIdle(engine.get());
    low.Poll();
    EXPECT_EQ(engine->stats().parking.parks, ++parks);
    Submit(alone_engine.get(), Make(&alone, steps, prompt, kMostGenerated));
    RunUntilIdle(alone_engine.get());
    alone.Poll();
    ExpectSameBits(low, alone, kMostGenerated);
    if (HasFatalFailure()) return;
  }
}

// An answer that ends by an id, and a turn that goes on from what it has left.
TEST_P(EngineCacheGoldenTest, AfterAnAnswerThatEndedEarly) {
  const auto model = LoadSmall();
  ASSERT_NE(model, nullptr);
  const auto alone_engine = StartEngine(model.get(), /*cached=*/false, /*max_running=*/1);
  const auto engine = StartEngine(model.get(), /*cached=*/true, /*max_running=*/1);
  Text text = RandomText(*model, 20);
  Consumer answer, next, alone;
  Request request = Make(&answer, 1, text, 120);
  request.cache.importance = 1;
  request.sampling.temperature = 4.0f;  // Else some models write one token for ever.
  request.stop.min_tokens = 85;
  for (int id = 0; id < std::min(500, model->config().vocab_size); id += 2) {
    request.stop.ids.push_back(id);
  }
  Submit(engine.get(), std::move(request));
  RunUntilIdle(engine.get());
  answer.Poll();
  ASSERT_EQ(answer.finish->reason, FinishReason::kStopId);
  ASSERT_GE(answer.tokens.size(), 85u);
  text.insert(text.end(), answer.tokens.begin(), answer.tokens.end());
  const auto before = static_cast<int>(text.size());
  const Text more = RandomText(*model, 5);
  text.insert(text.end(), more.begin(), more.end());
  Submit(engine.get(), Make(&next, 2, text, 5));
  RunUntilIdle(engine.get());
  next.Poll();
  EXPECT_EQ(next.finish->usage.cached_tokens, kOnGpu ? 96 : before);
  Submit(alone_engine.get(), Make(&alone, 3, text, 5));
  RunUntilIdle(alone_engine.get());
  alone.Poll();
  ExpectSameBits(next, alone, 5);
}

INSTANTIATE_TEST_SUITE_P(Models, EngineCacheGoldenTest, ::testing::ValuesIn(StateModels()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace packrat
