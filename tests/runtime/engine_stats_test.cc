// What the engine says of times and batches. The clock of these tests goes by 20 s a step, beside
// which what a step really takes is nothing.
#include <algorithm>
#include <cstdint>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/runtime/engine_fixture.h"

namespace packrat {
namespace {

constexpr absl::Duration kLongStep = absl::Seconds(20);
// The sums are more than the clock's by what the steps really took.
constexpr double kSlack = 15;

int64_t Total(const BucketCounts& counts) {
  int64_t total = 0;
  for (size_t i = 0; i <= counts.bounds().size(); ++i) total += counts.count(i);
  return total;
}

// "upper end:count" of all buckets that are not empty.
std::string Filled(const BucketCounts& counts) {
  std::string text;
  for (size_t i = 0; i <= counts.bounds().size(); ++i) {
    if (counts.count(i) == 0) continue;
    const std::string end = i < counts.bounds().size() ? absl::StrCat(counts.bounds()[i]) : "inf";
    absl::StrAppend(&text, text.empty() ? "" : " ", end, ":", counts.count(i));
  }
  return text;
}

void ExpectSum(const BucketCounts& counts, double sum) {
  EXPECT_GE(counts.sum(), sum);
  EXPECT_LT(counts.sum(), sum + kSlack);
}

// The pools that are short of memory, by name.
std::set<std::string> Short(const EngineStats& stats) {
  std::set<std::string> names;
  for (const EngineStats::Pool& pool : stats.pools) {
    if (pool.short_of_memory) names.insert(pool.kind);
  }
  return names;
}

class EngineStatsTest : public EngineTest {
 protected:
  void LongStep() {
    now_ += kLongStep;
    engine_->Step(now_);
  }
};

TEST_F(EngineStatsTest, TimesAreCountedAsTheyHappen) {
  EngineOptions options = Small();
  options.max_running = 1;
  Start(options);
  Consumer a, b, c;
  Submit(a.Make(1, RandomPrompt(&random_, 5), 3));
  Submit(b.Make(2, RandomPrompt(&random_, 7), 2));
  LongStep();  // A is admitted and gets its first token.
  EXPECT_EQ(Filled(engine_->stats().queue_time), "30:1");
  EXPECT_EQ(Filled(engine_->stats().time_to_first_token), "30:1");
  EXPECT_EQ(Filled(engine_->stats().inter_token_time), "");
  Submit(c.Make(3, RandomPrompt(&random_, 9), 2));
  LongStep();  // Its second token is counted while it runs.
  EXPECT_EQ(Filled(engine_->stats().inter_token_time), "30:1");
  EXPECT_EQ(engine_->stats().ended_waiting, 0);
  engine_->Cancel(3);
  LongStep();  // C ends after 40 s without having run; A with its third token.
  EXPECT_EQ(engine_->stats().ended_waiting, 1);
  EXPECT_EQ(Filled(engine_->stats().queue_time), "30:1 60:1");
  ExpectSum(engine_->stats().queue_time, 20 + 40);
  LongStep();  // B is admitted after 80 s, gets its first token, and then its second.
  LongStep();
  ASSERT_TRUE(engine_->idle());
  const EngineStats stats = engine_->stats();
  EXPECT_EQ(Filled(stats.queue_time), "30:1 60:1 120:1");
  ExpectSum(stats.queue_time, 20 + 40 + 80);
  EXPECT_EQ(stats.ended_waiting, 1);
  EXPECT_EQ(Filled(stats.time_to_first_token), "30:1 120:1");
  ExpectSum(stats.time_to_first_token, 20 + 80);
  EXPECT_EQ(Filled(stats.inter_token_time), "30:3");
  EXPECT_NEAR(stats.inter_token_time.sum(), 3 * 20, kSlack);
  // The requests' own accounts say the same.
  for (Consumer* consumer : {&a, &b, &c}) consumer->Poll();
  const auto times = [](absl::Duration Usage::*time, const Consumer& x, const Consumer& y) {
    return absl::ToDoubleSeconds(x.finish->usage.*time + y.finish->usage.*time);
  };
  EXPECT_NEAR(stats.time_to_first_token.sum(), times(&Usage::time_to_first_token, a, b), 1e-6);
  EXPECT_NEAR(stats.queue_time.sum(),
              times(&Usage::queue_time, a, b) + absl::ToDoubleSeconds(c.finish->usage.queue_time),
              1e-6);
}

TEST_F(EngineStatsTest, StepsAndTheirBatches) {
  EngineOptions options = Small();
  options.max_batch_tokens = 32;
  Start(options);
  Consumer a, b, c;
  EXPECT_FALSE(engine_->Step(now_));  // Nothing to do is no step.
  Submit(a.Make(1, RandomPrompt(&random_, 12), 4));
  LongStep();  // A's prompt.
  Submit(b.Make(2, RandomPrompt(&random_, 40), 2));
  LongStep();  // One of A and 16 of B's prompt, which is cut at a block's end.
  Submit(c.Make(3, RandomPrompt(&random_, 3), 1));
  LongStep();  // One of A, 24 of B, 3 of C.
  LongStep();  // One of A, one of B.
  ASSERT_TRUE(engine_->idle());
  const EngineStats stats = engine_->stats();
  EXPECT_EQ(stats.steps, 4);
  EXPECT_EQ(Filled(stats.batch_sequences), "1:1 2:2 4:1");
  EXPECT_EQ(stats.batch_sequences.sum(), 1 + 2 + 3 + 2);
  EXPECT_EQ(Filled(stats.batch_tokens), "2:1 16:1 32:2");
  EXPECT_EQ(stats.batch_tokens.sum(), 12 + 17 + 28 + 2);
  EXPECT_EQ(Total(stats.step_time), 4);
  // What a step took is real time: all that Step() spent, as in the sums of its parts.
  const absl::Duration parts = stats.model_time + stats.sample_time + stats.host_time;
  EXPECT_GT(stats.step_time.sum(), absl::ToDoubleSeconds(stats.model_time));
  EXPECT_LE(stats.step_time.sum(), absl::ToDoubleSeconds(parts));
  LongStep();  // Idle again.
  EXPECT_EQ(Total(engine_->stats().step_time), 4);
}

TEST_F(EngineStatsTest, AnEndBeforeAdmissionIsCountedWhateverEndsIt) {
  EngineOptions options = Small();
  options.max_running = 1;
  Start(options);
  Consumer runs, late, aborted;
  Submit(runs.Make(1, RandomPrompt(&random_, 5), 100));
  Request request = late.Make(2, RandomPrompt(&random_, 5), 5);
  request.deadline = now_ + absl::Seconds(30);
  Submit(std::move(request));
  LongStep();
  LongStep();  // 40 s: the deadline has passed.
  EXPECT_EQ(engine_->stats().ended_waiting, 1);
  Submit(aborted.Make(3, RandomPrompt(&random_, 5), 5));
  LongStep();
  engine_->AbortAll(absl::UnavailableError("the end"));
  LongStep();
  ASSERT_TRUE(engine_->idle());
  EXPECT_EQ(engine_->stats().ended_waiting, 2);  // Not the one that ran.
  EXPECT_EQ(Filled(engine_->stats().queue_time), "30:1 60:2");
}

// A model that says it samples for longer than there is time, so that each place where that is
// counted shows.
class SlowSampler : public FakeModel {
 public:
  double sampling_seconds() const override { return 1000; }
};

TEST(EngineStats, SamplingIsNotPartOfTheModelsTime) {
  SlowSampler model;
  EngineOptions options;
  options.max_running = 2;
  options.max_batch_tokens = 32;
  auto engine = *Engine::Create(&model, nullptr, options);
  std::mt19937_64 random(3);
  Consumer consumer;
  absl::Time now = absl::FromUnixSeconds(1);
  ASSERT_EQ(engine->Submit(consumer.Make(1, RandomPrompt(&random, 5), 3), now), absl::OkStatus());
  while (!engine->idle()) engine->Step(now += kStep);
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.sample_time, absl::Seconds(3 * 1000));
  const double model_seconds = absl::ToDoubleSeconds(stats.model_time);
  EXPECT_NEAR(model_seconds, -3 * 1000, kSlack);
  EXPECT_NEAR(absl::ToDoubleSeconds(stats.host_time), 0, kSlack);
}

// Memory for all that max_running lets in: however full the batch is, memory is not the limit.
TEST_F(EngineStatsTest, AFullBatchIsNoFullMemory) {
  EngineOptions options = Small();
  options.max_running = 2;
  Start(options);
  EXPECT_TRUE(Short(engine_->stats()).empty());
  Consumer consumers[3];
  for (int i = 0; i < 3; ++i) Submit(consumers[i].Make(i, RandomPrompt(&random_, 400), 100));
  Step();
  const EngineStats stats = engine_->stats();
  EXPECT_EQ(stats.running, 2);
  EXPECT_EQ(stats.pools[0].used, stats.pools[0].total) << "every slot is taken";
  EXPECT_EQ(stats.state_utilization, 0);
  EXPECT_EQ(stats.blocked, Blocked::kMaxRunning);
  engine_->AbortAll(absl::CancelledError("enough"));
  Step();
  EXPECT_EQ(engine_->stats().blocked, Blocked::kNothing);
}

// Memory for three of the longest, and places for eight: memory is the limit, and how near is the
// fullest kind of state.
TEST_F(EngineStatsTest, TooLittleMemoryShowsInItsUse) {
  FakeModel probe;
  EngineOptions options = Small();
  options.max_running = 8;
  options.state_bytes = 3 * static_cast<int64_t>(probe.state_layout().SequenceBytes(512));
  Start(options);
  EXPECT_FALSE(Short(engine_->stats()).empty());
  Consumer consumers[5];
  double before = 0;
  for (int i = 0; i < 5; ++i) {
    Submit(consumers[i].Make(i, RandomPrompt(&random_, 300), 200));
    Step();
    const EngineStats stats = engine_->stats();
    double fullest = 0;
    for (const EngineStats::Pool& pool : stats.pools) {
      if (!pool.short_of_memory) continue;
      fullest = std::max(fullest, static_cast<double>(pool.used) / static_cast<double>(pool.total));
    }
    EXPECT_DOUBLE_EQ(stats.state_utilization, fullest);
    EXPECT_GE(fullest, before);
    before = fullest;
  }
  EXPECT_LT(engine_->stats().running, 5);
  EXPECT_GT(engine_->stats().state_utilization, 0.6);
  EXPECT_EQ(engine_->stats().blocked, Blocked::kMemory);
}

}  // namespace
}  // namespace packrat
