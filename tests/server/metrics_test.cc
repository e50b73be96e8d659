// Everything under /metrics by its value: known sources through Render().
#include "server/metrics.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/bucket_counts.h"
#include "tests/server/known_engine.h"

namespace packrat {
namespace {

const SteadyTime kStart = SteadyTime() + std::chrono::hours(5);

ServerOptions Options() {
  ServerOptions options;
  options.model_name = "m";
  options.engine.max_running = 31;
  options.engine.max_queue = 32;
  options.engine.max_batch_tokens = 33;
  options.max_streams = 34;
  options.sessions.max_sessions = 36;
  options.sessions.max_tokens = 37;
  options.max_text_queue = 35;
  return options;
}

Samples Read(const std::string& text) {
  Samples samples;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (line[0] == '#') continue;
    const size_t space = line.rfind(' ');
    double value = 0;
    EXPECT_TRUE(absl::SimpleAtod(line.substr(space + 1), &value)) << line;
    EXPECT_TRUE(samples.emplace(line.substr(0, space), value).second) << "twice: " << line;
  }
  return samples;
}

// All that is counted by kinds, at 0.
void AddZeros(Samples* samples) {
  for (const char* reason :
       {"length", "eos", "stop_id", "stop_string", "cancelled", "deadline", "error"}) {
    (*samples)[absl::StrCat("packrat_requests_finished_total{model=\"m\",reason=\"", reason,
                            "\"}")] = 0;
  }
  for (const char* status :
       {"OK", "CANCELLED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
        "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
        "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}) {
    const std::string label = absl::StrCat("status=\"", status, "\"}");
    if (label != "status=\"OK\"}") (*samples)["packrat_errors_total{model=\"m\"," + label] = 0;
    for (const char* call :
         {"Generate", "Score", "Tokenize", "Detokenize", "GetModelInfo", "GetPlan", "CreateSession",
          "ListSessions", "GetSession", "ForkSession", "RewindSession", "DeleteSession",
          "SaveSession", "LoadSession"}) {
      (*samples)[absl::StrCat("packrat_calls_total{model=\"m\",call=\"", call, "\",", label)] = 0;
    }
  }
}

// What is there has these values, and there is nothing else. The process's own is for another test.
void ExpectSamples(const Samples& expected, const Samples& seen) {
  for (const auto& [name, value] : expected) {
    const auto found = seen.find(name);
    if (found == seen.end()) {
      ADD_FAILURE() << "missing: " << name;
    } else {
      EXPECT_NEAR(found->second, value, 1e-9 * (1 + value)) << name;
    }
  }
  for (const auto& [name, value] : seen) {
    if (absl::StrContains(absl::StripPrefix(name, "packrat_"), "process_")) continue;
    EXPECT_TRUE(expected.count(name) > 0) << "not expected: " << name << " " << value;
  }
}

TEST(Metrics, EveryValueIsShownUnderItsName) {
  Metrics metrics(Options());
  metrics.SetSource(KnownSource());
  metrics.SetReady(true);
  metrics.AddGauge("packrat_some_level", "A level.", [] { return 41; });
  metrics.AddCounter("packrat_some_total", "A count.", [] { return 42; });
  Usage first;  // All that a request can say of itself.
  first.prompt_tokens = 100;
  first.cached_tokens = 64;
  first.completion_tokens = 5;
  first.queue_time = absl::Milliseconds(1);
  first.time_to_first_token = absl::Milliseconds(30);
  first.total_time = absl::Milliseconds(130);
  Usage second;  // Ended before its second token,
  second.prompt_tokens = 3;
  second.cached_tokens = 16;
  second.completion_tokens = 1;
  second.total_time = absl::Seconds(2);
  Usage third;  // and before its first.
  third.prompt_tokens = 9;
  third.total_time = absl::Seconds(400);
  metrics.OnFinish("stop_string", first, "");
  metrics.OnFinish("eos", second, "");
  metrics.OnFinish("cancelled", third, "");
  metrics.OnMessage(std::chrono::milliseconds(20));
  metrics.OnMessage(std::chrono::seconds(3));
  metrics.OnDelivery(absl::Microseconds(700));
  metrics.OnDelivery(absl::Milliseconds(40));
  metrics.OnCall("Generate", "OK", "");
  metrics.OnCall("Generate", "OK", "");
  metrics.OnCall("Generate", "CANCELLED", "");
  metrics.OnCall("Tokenize", "INVALID_ARGUMENT", "");

  Samples expected;
  AddZeros(&expected);
  AddKnownEngine(&expected);
  for (const auto& [name, value] : Samples{
           {"packrat_ready{model=\"m\"}", 1},
           {"packrat_max_running{model=\"m\"}", 31},
           {"packrat_max_queue{model=\"m\"}", 32},
           {"packrat_max_batch_tokens{model=\"m\"}", 33},
           {"packrat_max_streams{model=\"m\"}", 34},
           {"packrat_max_sessions{model=\"m\"}", 36},
           {"packrat_max_session_tokens{model=\"m\"}", 37},
           {"packrat_max_text_queue{model=\"m\"}", 35},
           {"packrat_some_level{model=\"m\"}", 41},
           {"packrat_some_total{model=\"m\"}", 42},
           // Nothing has been sampled.
           {"packrat_prompt_tokens_per_second{model=\"m\"}", 0},
           {"packrat_generated_tokens_per_second{model=\"m\"}", 0},
           {"packrat_cached_prompt_tokens_total{model=\"m\"}", 80},
           {"packrat_requests_finished_total{model=\"m\",reason=\"stop_string\"}", 1},
           {"packrat_requests_finished_total{model=\"m\",reason=\"eos\"}", 1},
           {"packrat_requests_finished_total{model=\"m\",reason=\"cancelled\"}", 1},
           {"packrat_calls_total{model=\"m\",call=\"Generate\",status=\"OK\"}", 2},
           {"packrat_calls_total{model=\"m\",call=\"Generate\",status=\"CANCELLED\"}", 1},
           {"packrat_calls_total{model=\"m\",call=\"Tokenize\",status=\"INVALID_ARGUMENT\"}", 1},
           {"packrat_errors_total{model=\"m\",status=\"CANCELLED\"}", 1},
           {"packrat_errors_total{model=\"m\",status=\"INVALID_ARGUMENT\"}", 1},
       }) {
    expected[name] = value;
  }
  AddHistogram("packrat_request_duration_seconds", kSecondsBounds, {0.13, 2, 400}, &expected);
  AddHistogram("packrat_time_per_output_token_seconds", kSecondsBounds, {0.1 / 4}, &expected);
  AddHistogram("packrat_message_interval_seconds", kSecondsBounds, {0.02, 3}, &expected);
  AddHistogram("packrat_delivery_seconds", kSecondsBounds, {0.0007, 0.04}, &expected);
  AddHistogram("packrat_request_prompt_tokens", kTokensBounds, {100, 3, 9}, &expected);
  AddHistogram("packrat_request_generated_tokens", kTokensBounds, {5, 1, 0}, &expected);
  ExpectSamples(expected, Read(metrics.Render(kStart)));
}

TEST(Metrics, AllIsThereAtZeroBeforeThereIsAModel) {
  Metrics metrics(Options());
  const Samples before = Read(metrics.Render(kStart));
  for (const auto& [name, value] : before) {
    if (absl::StartsWith(name, "packrat_max_") || absl::StrContains(name, "process_") ||
        absl::StartsWith(name, "packrat_build_info{")) {
      continue;
    }
    EXPECT_EQ(value, 0) << name;
  }
  // But for the kinds of state, which a model has, nothing comes later.
  metrics.SetSource(KnownSource());
  for (const auto& [name, value] : Read(metrics.Render(kStart))) {
    if (absl::StartsWith(name, "packrat_state_used") ||
        absl::StartsWith(name, "packrat_state_capacity") ||
        absl::StartsWith(name, "packrat_state_cached") ||
        absl::StartsWith(name, "packrat_build_info{")) {
      continue;
    }
    EXPECT_TRUE(before.count(name) > 0) << name;
  }
}

TEST(Metrics, RatesAreOfTheirOwnCounters) {
  EngineStats stats;
  Metrics metrics(Options());
  metrics.Sample(kStart);  // Without a model there is nothing to sample.
  Metrics::Source source = KnownSource();
  source.engine = [&stats] { return stats; };
  metrics.SetSource(source);
  for (int second = 0; second < 5; ++second) {
    metrics.Sample(kStart + std::chrono::seconds(second));
    stats.prompt_tokens += 300;
    stats.generated_tokens += 70;
  }
  const Samples samples = Read(metrics.Render(kStart + std::chrono::seconds(5)));
  EXPECT_DOUBLE_EQ(samples.at("packrat_prompt_tokens_per_second{model=\"m\"}"), 300);
  EXPECT_DOUBLE_EQ(samples.at("packrat_generated_tokens_per_second{model=\"m\"}"), 70);
}

std::set<std::string> Callers(const Samples& samples) {
  std::set<std::string> callers;
  for (const auto& [name, value] : samples) {
    const size_t begin = name.find("caller=\"");
    if (begin == std::string::npos) continue;
    callers.insert(name.substr(begin + 8, name.find('"', begin + 8) - begin - 8));
  }
  return callers;
}

TEST(Metrics, CallersAreCountedApartOnlyWhereAskedForAndBounded) {
  Usage usage;
  usage.prompt_tokens = 10;
  usage.completion_tokens = 4;
  const auto count = [&](Metrics* metrics) {
    for (const char* caller : {"a", "b", "c", "d", "a", ""}) {
      metrics->OnFinish("eos", usage, caller);
      metrics->OnCall("Generate", "OK", caller);
    }
    metrics->OnCall("Tokenize", "UNAVAILABLE", "a");
    return Read(metrics->Render(kStart));
  };
  Metrics without(Options());
  EXPECT_EQ(Callers(count(&without)), std::set<std::string>());

  ServerOptions options = Options();
  options.metrics_by_caller = 2;
  Metrics with(options);
  const Samples samples = count(&with);
  EXPECT_EQ(Callers(samples), (std::set<std::string>{"a", "b", "other", "unknown"}));
  for (const auto& [caller, times] :
       std::map<std::string, int>{{"a", 2}, {"b", 1}, {"other", 2}, {"unknown", 1}}) {
    const std::string label = absl::StrCat("{model=\"m\",caller=\"", caller, "\"");
    EXPECT_EQ(samples.at("packrat_caller_prompt_tokens_total" + label + "}"), 10 * times);
    EXPECT_EQ(samples.at("packrat_caller_generated_tokens_total" + label + "}"), 4 * times);
    EXPECT_EQ(samples.at("packrat_caller_calls_total" + label + ",status=\"OK\"}"), times);
  }
  EXPECT_EQ(
      samples.at("packrat_caller_calls_total{model=\"m\",caller=\"a\",status=\"UNAVAILABLE\"}"), 1);
}

TEST(Metrics, ThreadsCountAndReadTogether) {
  ServerOptions options = Options();
  options.metrics_by_caller = 3;
  Metrics metrics(options);
  std::atomic<int> level{0};
  metrics.AddGauge("packrat_some_level", "A level.", [&level] { return level.load(); });
  constexpr int kThreads = 4, kTimes = 500;
  Usage usage;
  usage.prompt_tokens = 2;
  usage.completion_tokens = 3;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kTimes; ++i) {
        metrics.OnFinish("eos", usage, absl::StrCat("caller", (t + i) % 5));
        metrics.OnCall("Generate", i % 2 == 0 ? "OK" : "CANCELLED", absl::StrCat("caller", t));
        metrics.OnMessage(std::chrono::milliseconds(1));
        level = i;
      }
    });
  }
  threads.emplace_back([&] {
    for (int i = 0; i < 50; ++i) {
      if (i == 10) metrics.SetSource(KnownSource());
      metrics.SetReady(i % 2 == 0);
      metrics.Sample(kStart + std::chrono::milliseconds(i));
      EXPECT_GT(Read(metrics.Render(kStart + std::chrono::milliseconds(i))).size(), 100u);
    }
  });
  for (std::thread& thread : threads) thread.join();
  const Samples samples = Read(metrics.Render(kStart));
  constexpr double kAll = kThreads * kTimes;
  EXPECT_EQ(samples.at("packrat_requests_finished_total{model=\"m\",reason=\"eos\"}"), kAll);
  EXPECT_EQ(samples.at("packrat_errors_total{model=\"m\",status=\"CANCELLED\"}"), kAll / 2);
  EXPECT_EQ(samples.at("packrat_message_interval_seconds_count{model=\"m\"}"), kAll);
  double prompts = 0;
  for (const auto& [name, value] : samples) {
    if (absl::StartsWith(name, "packrat_caller_prompt_tokens_total")) prompts += value;
  }
  EXPECT_EQ(prompts, 2 * kAll);
  EXPECT_EQ(Callers(samples).size(), 4u);  // Three and "other".
}

TEST(RateWindow, IsTheMeanOfTheWindow) {
  using std::chrono::seconds;
  RateWindow window(seconds(10));
  EXPECT_EQ(window.Rate(kStart, 5), 0);
  for (int s = 0; s <= 20; ++s) window.Sample(kStart + seconds(s), s < 10 ? 0 : 100 * (s - 10));
  // 100 a second for the last ten seconds.
  EXPECT_DOUBLE_EQ(window.Rate(kStart + seconds(20), 1000), 100);
  // It fades when nothing comes, and is 0 when the window holds nothing else.
  EXPECT_DOUBLE_EQ(window.Rate(kStart + seconds(25), 1000), 50);
  EXPECT_EQ(window.Rate(kStart + seconds(31), 1000), 0);
}

}  // namespace
}  // namespace packrat
