// packrat bench: makes many calls at once and measures them.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "runtime/mutex.h"
#include "server/client/commands.h"
#include "server/client/request_flags.h"
#include "server/standard_output.h"

namespace packrat {
namespace {

// Seconds, as the client sees them.
struct Sample {
  double first_token = 0;
  double per_token = 0;  // Mean after the first message.
  double total = 0;
  int prompt_tokens = 0;
  int output_tokens = 0;
};

struct Results {
  Mutex mutex;
  std::vector<Sample> samples ABSL_GUARDED_BY(mutex);
  std::vector<double> intervals ABSL_GUARDED_BY(mutex);  // Between messages with tokens.
  int failed ABSL_GUARDED_BY(mutex) = 0;
  Connection::Outcome first_failure ABSL_GUARDED_BY(mutex);
};

// Token `position` of call `call`. Any ids will do, but equal seeds give equal ids.
int32_t PromptToken(uint64_t seed, int call, int position, int vocab_size) {
  uint64_t z = seed + 0x9e3779b97f4a7c15u * (call * 1000003u + position + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<int32_t>((z ^ (z >> 31)) % vocab_size);
}

// `start`: when it was to be sent.
void RunOne(Connection* connection, const v1::GenerateRequest& request, absl::Time start,
            Results* results) {
  absl::Time first = start, last = start;
  std::vector<double> intervals;
  int first_count = 0;
  Sample sample;
  bool seen = false;
  const Connection::Outcome outcome =
      connection->Generate(request, [&](const v1::GenerateResponse& message) {
        if (message.token_ids_size() == 0) return;
        const absl::Time now = absl::Now();
        if (seen) {
          intervals.push_back(absl::ToDoubleSeconds(now - last));
        } else {
          seen = true;
          first = now;
          first_count = message.token_ids_size();
        }
        last = now;
        sample.output_tokens += message.token_ids_size();
      });
  const absl::Time end = absl::Now();
  sample.prompt_tokens = request.tokens().ids_size();
  sample.first_token = absl::ToDoubleSeconds(first - start);
  sample.total = absl::ToDoubleSeconds(end - start);
  const int later = sample.output_tokens - first_count;
  sample.per_token = later > 0 ? absl::ToDoubleSeconds(end - first) / later : 0;
  MutexLock lock(&results->mutex);
  if (outcome.status.ok()) {
    results->samples.push_back(sample);
    results->intervals.insert(results->intervals.end(), intervals.begin(), intervals.end());
  } else if (results->failed++ == 0) {
    results->first_failure = outcome;
  }
}

// Of seconds, in milliseconds.
nlohmann::ordered_json Percentiles(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const auto at = [&](double share) {
    return seconds.empty() ? 0.0
                           : 1e3 * seconds[static_cast<size_t>(share * (seconds.size() - 1) + 0.5)];
  };
  return {{"p50", at(0.5)}, {"p90", at(0.9)}, {"p99", at(0.99)}};
}

nlohmann::ordered_json Percentiles(const std::vector<Sample>& samples, double Sample::*value) {
  std::vector<double> seconds;
  seconds.reserve(samples.size());
  for (const Sample& sample : samples) seconds.push_back(sample.*value);
  return Percentiles(std::move(seconds));
}

nlohmann::ordered_json Summary(const std::vector<Sample>& samples,
                               const std::vector<double>& intervals, int failed, double seconds) {
  int64_t prompt = 0, output = 0;
  for (const Sample& sample : samples) {
    prompt += sample.prompt_tokens;
    output += sample.output_tokens;
  }
  return {{"requests", samples.size()},
          {"failed", failed},
          {"seconds", seconds},
          {"requests_per_second", samples.size() / seconds},
          {"prompt_tokens_per_second", prompt / seconds},
          {"output_tokens_per_second", output / seconds},
          {"time_to_first_token_ms", Percentiles(samples, &Sample::first_token)},
          {"time_per_output_token_ms", Percentiles(samples, &Sample::per_token)},
          {"message_interval_ms", Percentiles(intervals)},
          {"request_ms", Percentiles(samples, &Sample::total)}};
}

std::string ToText(const nlohmann::ordered_json& summary) {
  std::string text = absl::StrFormat(
      "%d requests in %.2f s (%d failed): %.1f prompt and %.1f output tokens/s\n",
      summary["requests"].get<int>(), summary["seconds"].get<double>(),
      summary["failed"].get<int>(), summary["prompt_tokens_per_second"].get<double>(),
      summary["output_tokens_per_second"].get<double>());
  absl::StrAppendFormat(&text, "%-28s %10s %10s %10s\n", "", "p50", "p90", "p99");
  for (const char* name : {"time_to_first_token_ms", "time_per_output_token_ms",
                           "message_interval_ms", "request_ms"}) {
    const auto& row = summary[name];
    absl::StrAppendFormat(&text, "%-28s %10.2f %10.2f %10.2f\n", name, row["p50"].get<double>(),
                          row["p90"].get<double>(), row["p99"].get<double>());
  }
  return text;
}

// When each call begins, in seconds from the start: as a Poisson process has it.
std::vector<double> Arrivals(double rate, int requests, uint64_t seed) {
  std::vector<double> arrivals(requests, 0);
  if (rate <= 0) return arrivals;
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> pause(rate);
  double at = 0;
  for (double& arrival : arrivals) arrival = at += pause(random);
  return arrivals;
}

// Even over the logarithm of the length.
int PromptLength(uint64_t seed, int call, int least, int most) {
  if (most <= least) return least;
  std::mt19937_64 random(seed + call);
  std::uniform_real_distribution<double> power(std::log(least), std::log(most));
  return std::clamp(static_cast<int>(std::lround(std::exp(power(random)))), least, most);
}

}  // namespace

int BenchCommand(Connection* connection, const std::vector<std::string>& arguments) {
  const int concurrency = absl::GetFlag(FLAGS_concurrency);
  const int requests = absl::GetFlag(FLAGS_requests);
  const int prompt_tokens = absl::GetFlag(FLAGS_prompt_tokens);
  if (!arguments.empty()) return UsageError("bench takes no arguments");
  if (concurrency < 1 || concurrency > 10000) {
    return UsageError("--concurrency is out of range [1, 10000]");
  }
  if (requests < 1 || requests > 10000000) {
    return UsageError("--requests is out of range [1, 10000000]");
  }
  if (prompt_tokens < 1 || prompt_tokens > 10000000) {
    return UsageError("--prompt_tokens is out of range [1, 10000000]");
  }
  const int max_prompt_tokens = absl::GetFlag(FLAGS_max_prompt_tokens);
  if (max_prompt_tokens < 0 || max_prompt_tokens > 10000000) {
    return UsageError("--max_prompt_tokens is out of range [0, 10000000]");
  }
  if (max_prompt_tokens > 0 && max_prompt_tokens < prompt_tokens) {
    return UsageError("--max_prompt_tokens is less than --prompt_tokens");
  }
  const double rate = absl::GetFlag(FLAGS_rate);
  if (!(rate >= 0 && rate <= 100000)) return UsageError("--rate is out of range [0, 100000]");
  v1::GetModelInfoResponse info;
  const Connection::Outcome reached = connection->GetModelInfo(&info);
  if (!reached.status.ok()) return Report(*connection, reached);
  const int vocab = info.has_tokenizer() ? info.tokenizer().num_pieces() : info.vocab_size();

  v1::GenerateRequest base = RequestFromFlags();
  base.mutable_stop()->set_ignore_eos(true);  // So every call does the same amount of work.
  const uint64_t first_seed = base.sampling().seed();
  const std::vector<double> arrivals = Arrivals(rate, requests, first_seed);
  Results results;
  std::atomic<int> next{0};
  const absl::Time start = absl::Now();
  std::vector<std::thread> threads;
  for (int t = 0; t < std::min(concurrency, requests); ++t) {
    threads.emplace_back([&] {
      for (int call = next++; call < requests && !connection->cancelled(); call = next++) {
        v1::GenerateRequest request = base;
        const uint64_t seed = first_seed + call;
        request.mutable_sampling()->set_seed(seed);
        const int tokens = PromptLength(first_seed, call, prompt_tokens, max_prompt_tokens);
        for (int i = 0; i < tokens; ++i) {
          request.mutable_tokens()->add_ids(PromptToken(seed, call, i, vocab));
        }
        const absl::Time due = start + absl::Seconds(arrivals[call]);
        if (rate > 0) absl::SleepFor(due - absl::Now());
        RunOne(connection, request, rate > 0 ? due : absl::Now(), &results);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  MutexLock lock(&results.mutex);
  const nlohmann::ordered_json summary =
      Summary(results.samples, results.intervals, results.failed, seconds);
  Print(absl::GetFlag(FLAGS_json) ? summary.dump() + "\n" : ToText(summary));
  return results.failed == 0 ? kExitOk : Report(*connection, results.first_failure);
}

}  // namespace packrat
