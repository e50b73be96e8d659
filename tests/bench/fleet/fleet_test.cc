// The simulated fleet against queueing theory where that has a closed form, and its books.
#include "tests/bench/fleet/fleet.h"

#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "models/config.h"

namespace packrat {
namespace {

// A little state per sequence, one page per 16 tokens.
StateLayout Layout() {
  ModelConfig config;
  config.hidden_size = 16;
  config.mixers = {AttentionSpec{2, 2, 8, 0}, MesaSpec{2, 8, 4, 0.25f, true}};
  return StateLayout(config);
}

FleetOptions Options(int max_running) {
  FleetOptions options;
  options.replica.max_running = max_running;
  options.replica.max_queue = 1000000;
  options.replica.parts = {1000, 1000, {100000}};
  return options;
}

// Every step takes as long, whatever is in it.
StepTimes Always(double seconds) { return StepTimes({{0, seconds}, {1, seconds}}, 0); }

TEST(Fleet, OneAtATimeWaitsAsMD1) {
  Workload workload;
  workload.per_second = 7;
  workload.reply = Constant(10);
  FleetOptions options = Options(1);
  options.warm_up = 100;
  options.seconds = 20000;
  const FleetResult result = Simulate(workload, Always(0.01), Layout(), options);
  // Pollaczek and Khinchine: with service of exactly D, load * D / (2 (1 - load)).
  const double service = 0.1, load = 0.7;
  EXPECT_NEAR(result.utilisation, load, 0.01);
  EXPECT_NEAR(result.counts.wait.mean(), load * service / (2 * (1 - load)), 0.005);
  EXPECT_NEAR(result.counts.first_token.mean(), result.counts.wait.mean() + 0.01, 1e-4);
  EXPECT_NEAR(result.counts.gap.Percentile(0.5), 0.01, 1e-4);
}

// The chance that all c servers are busy, at `offered` = rate * service time.
double ErlangC(int c, double offered) {
  double term = 1, sum = 0;
  for (int k = 0; k < c; ++k) {
    sum += term;
    term *= offered / (k + 1);
  }
  const double all = term * c / (c - offered);
  return all / (sum + all);
}

TEST(Fleet, PlacesOfABatchWaitAsMMc) {
  const int places = 4;
  const double step = 0.02, mean_tokens = 50, rate = 2.8;
  Workload workload;
  workload.per_second = rate;
  workload.reply = Geometric(mean_tokens);  // As good as exponential: no memory, short steps.
  FleetOptions options = Options(places);
  options.warm_up = 1000;
  options.seconds = 60000;
  const FleetResult result = Simulate(workload, Always(step), Layout(), options);
  const double service = mean_tokens * step, offered = rate * service;
  // Who comes in the middle of a step waits for its end in any case.
  const double wait = ErlangC(places, offered) * service / (places - offered) + step / 2;
  EXPECT_NEAR(result.counts.wait.mean(), wait, 0.05 * wait);
}

TEST(Fleet, EveryCallAndEveryTokenIsAccountedFor) {
  Workload workload;
  workload.per_second = 3;
  workload.turns = Geometric(3);
  workload.first_prompt = LogNormal(40, 1, 400);
  workload.message = LogNormal(20, 1, 400);
  workload.reply = LogNormal(30, 1, 200);
  workload.think = 5;
  const StepTimes times({{0, 0.002}, {1, 0.01}, {8, 0.02}}, 0.0002);
  for (const Balancing balancing :
       {Balancing::kLeast, Balancing::kTwoChoices, Balancing::kAffinity}) {
    FleetOptions options = Options(8);
    options.replicas = 3;
    options.balancing = balancing;
    options.replica.max_queue = 2;
    options.seconds = 500;
    options.max_context = 700;
    const FleetResult result = Simulate(workload, times, Layout(), options);
    EXPECT_GT(result.arrivals, 3000);
    EXPECT_EQ(result.arrivals, result.finished + result.refused + result.in_flight);
    EXPECT_LE(result.in_flight, 3 * (8 + 2));
    // Nothing is left out: without a warm-up the counts are those of the whole run.
    const FleetCounts& counts = result.counts;
    EXPECT_GE(counts.reply_tokens, result.finished_tokens);
    EXPECT_LE(counts.reply_tokens, result.finished_tokens + 200 * result.in_flight);
    EXPECT_EQ(counts.reply_tokens, counts.first_token.count() + counts.gap.count());
    EXPECT_GE(counts.first_token.count(), result.finished);
    EXPECT_EQ(counts.cached_tokens, 0);
  }
}

TEST(Fleet, AFullQueueRefusesAndTheRestIsServedAtTheCapacity) {
  Workload workload;
  workload.per_second = 30;  // Three times what one replica can do.
  workload.reply = Constant(10);
  FleetOptions options = Options(1);
  options.replica.max_queue = 5;
  options.seconds = 2000;
  const FleetResult result = Simulate(workload, Always(0.01), Layout(), options);
  EXPECT_NEAR(result.utilisation, 1, 0.001);
  EXPECT_NEAR(static_cast<double>(result.finished) / options.seconds, 10, 0.1);
  // Five wait before each, for 0.1 s a call.
  EXPECT_LE(result.counts.wait.Percentile(1), 0.51);
  EXPECT_GT(result.counts.wait.mean(), 0.4);
}

TEST(Fleet, StateLimitsHowManyRun) {
  Workload workload;
  workload.per_second = 100;
  workload.first_prompt = Constant(32);
  workload.reply = Constant(32);
  FleetOptions options = Options(8);
  options.replica.parts.pages = {8};  // 64 tokens take four pages: two run together.
  options.replica.max_queue = 10;
  options.seconds = 100;
  const FleetResult result = Simulate(workload, Always(0.01), Layout(), options);
  EXPECT_NEAR(static_cast<double>(result.finished) / options.seconds, 2 / 0.32, 0.2);
  EXPECT_NEAR(result.state, 1, 0.01);
}

TEST(Fleet, KeptStateSparesPromptsWhereConversationsStay) {
  Workload workload;
  workload.per_second = 2;
  workload.turns = Constant(4);
  workload.first_prompt = Constant(50);
  workload.message = Constant(10);
  workload.reply = Constant(10);
  workload.think = 1;
  const auto cached = [&](Balancing balancing) {
    FleetOptions options = Options(8);
    options.replicas = 8;
    options.balancing = balancing;
    options.replica.cached_conversations = 1000;
    options.seconds = 500;
    const FleetCounts counts = Simulate(workload, Always(0.001), Layout(), options).counts;
    return static_cast<double>(counts.cached_tokens) /
           static_cast<double>(counts.prompt_tokens + counts.cached_tokens);
  };
  // Prompts of 50, 70, 90 and 110 tokens, of which 0, 60, 80 and 100 are known.
  EXPECT_NEAR(cached(Balancing::kAffinity), 240.0 / 320, 0.02);
  EXPECT_LT(cached(Balancing::kLeast), 0.3);
}

TEST(Workload, TheDayHasItsPeakAndItsMean) {
  Workload workload;
  workload.per_second = 5;
  workload.swing = 0.6;
  EXPECT_DOUBLE_EQ(workload.RateAt(workload.peak), 8);
  EXPECT_DOUBLE_EQ(workload.RateAt(workload.peak - workload.day / 2), 2);
  // A day of a hundred seconds, a hundred times.
  workload.day = 100;
  workload.peak = 80;
  FleetOptions options = Options(64);
  options.seconds = 10000;
  const FleetResult result = Simulate(workload, Always(1e-4), Layout(), options);
  EXPECT_NEAR(static_cast<double>(result.arrivals) / options.seconds, 5, 0.1);
}

TEST(Workload, LengthsHaveTheirMeansAndEnds) {
  Random random(1);
  const auto mean = [&](const Lengths& lengths) {
    double sum = 0;
    for (int i = 0; i < 100000; ++i) sum += lengths(&random);
    return sum / 100000;
  };
  EXPECT_NEAR(mean(Geometric(50)), 50, 1);
  EXPECT_NEAR(mean(LogNormal(100, 0.8, 1000000)), 100 * std::exp(0.32), 2);
  EXPECT_LE(mean(LogNormal(100, 0.8, 60)), 60);
  EXPECT_EQ(mean(Constant(7)), 7);
}

TEST(StepTimes, AreReadBetweenTheRowsAndBeyond) {
  const auto times = StepTimes::Parse(
      "# a comment\ndecode\t0\t0.01\ndecode\t10\t0.02\ndecode\t20\t0.04\nprompt_token\t0.001\n");
  ASSERT_TRUE(times.ok()) << times.status();
  EXPECT_DOUBLE_EQ(times->Seconds(0, 0), 0.01);
  EXPECT_DOUBLE_EQ(times->Seconds(5, 0), 0.015);
  EXPECT_DOUBLE_EQ(times->Seconds(10, 0), 0.02);
  EXPECT_DOUBLE_EQ(times->Seconds(15, 3), 0.033);
  EXPECT_DOUBLE_EQ(times->Seconds(30, 0), 0.06);
  for (const char* bad : {"", "decode\t0\t1\nprompt_token\t1\n", "decode\t1\t1\ndecode\t2\t1\n",
                          "decode\t0\t1\ndecode\t0\t1\nprompt_token\t1\n", "decode\t0\t-1\n",
                          "decode\t0\t1\ndecode\t2\t1\n", "step\t0\t1\n"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(StepTimes::Parse(bad).status())) << bad;
  }
}

TEST(Histogram, PercentilesAreRightToAPercent) {
  Histogram histogram;
  EXPECT_EQ(histogram.Percentile(0.5), 0);
  for (int i = 1; i <= 1000; ++i) histogram.Add(0.001 * i);
  EXPECT_NEAR(histogram.Percentile(0.5), 0.5, 0.005);
  EXPECT_NEAR(histogram.Percentile(0.99), 0.99, 0.01);
  EXPECT_NEAR(histogram.mean(), 0.5005, 1e-9);
}

}  // namespace
}  // namespace packrat
