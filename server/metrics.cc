#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <chrono>
#include <iterator>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runtime/bucket_counts.h"
#include "runtime/mutex.h"
#include "server/engine_metrics.h"
#include "server/metric_readings.h"
#include "server/process_stats.h"
#include "server/version.h"

namespace packrat {
namespace {

using prometheus::Counter;
using prometheus::Histogram;
using prometheus::MetricFamily;
using prometheus::MetricType;

const Histogram::BucketBoundaries kSeconds(std::begin(kSecondsBounds), std::end(kSecondsBounds));
const Histogram::BucketBoundaries kTokens(std::begin(kTokensBounds), std::end(kTokensBounds));

}  // namespace

void RateWindow::Sample(SteadyTime now, int64_t count) {
  samples_.emplace_back(now, count);
  while (samples_.front().first < now - window_) samples_.pop_front();
}

double RateWindow::Rate(SteadyTime now, int64_t count) const {
  for (const auto& [time, before] : samples_) {
    if (time < now - window_) continue;
    const double seconds = std::chrono::duration<double>(now - time).count();
    return seconds > 0 ? static_cast<double>(count - before) / seconds : 0;
  }
  return 0;
}

struct Metrics::Impl {
  explicit Impl(const ServerOptions& o) : options(o), model(o.model_name) {}

  prometheus::Family<Histogram>& AddHistogram(const char* name, const char* help) {
    return prometheus::BuildHistogram()
        .Name(name)
        .Help(help)
        .Labels({{"model", model}})
        .Register(registry);
  }
  prometheus::Family<Counter>& AddCounter(const char* name, const char* help) {
    return prometheus::BuildCounter()
        .Name(name)
        .Help(help)
        .Labels({{"model", model}})
        .Register(registry);
  }
  std::string CallerLabel(const std::string& caller);
  void CollectProcess(std::vector<MetricFamily>* out) const;
  void CollectServer(std::vector<MetricFamily>* out);
  void CollectEngine(SteadyTime now, std::vector<MetricFamily>* out);

  const ServerOptions options;
  const std::string model;
  prometheus::Registry registry;
  Histogram& per_token = AddHistogram("packrat_time_per_output_token_seconds",
                                      "Mean time between a request's tokens after the first.")
                             .Add({}, kSeconds);
  Histogram& duration =
      AddHistogram("packrat_request_duration_seconds", "From the queue to the last token.")
          .Add({}, kSeconds);
  Histogram& message_interval =
      AddHistogram("packrat_message_interval_seconds",
                   "Between two messages with tokens of a stream, as they go out to its client.")
          .Add({}, kSeconds);
  Histogram& delivery =
      AddHistogram("packrat_delivery_seconds",
                   "From a token to when the message with it is written; where an answer is not "
                   "streamed, to when it is part of the answer.")
          .Add({}, kSeconds);
  Histogram& prompt_length =
      AddHistogram("packrat_request_prompt_tokens", "Length of a request's prompt.")
          .Add({}, kTokens);
  Histogram& output_length =
      AddHistogram("packrat_request_generated_tokens",
                   "Tokens that a request got, the ending token included; 0 where it got none.")
          .Add({}, kTokens);
  prometheus::Family<Counter>& finished = AddCounter(
      "packrat_requests_finished_total", "Requests that left the engine, by why they ended.");
  prometheus::Family<Counter>& calls =
      AddCounter("packrat_calls_total", "Calls answered, by call and status.");
  prometheus::Family<Counter>& errors =
      AddCounter("packrat_errors_total", "Calls answered with another status than OK, by status.");
  prometheus::Family<Counter>& http_answers = AddCounter(
      "packrat_http_requests_total",
      "Requests over HTTP by path, as the server's pages have it, and status code of the "
      "answer; other: no page has the path, or the request could not be read.");
  Counter& cached_tokens =
      AddCounter("packrat_cached_prompt_tokens_total",
                 "Prompt tokens that were not computed because a cache had them.")
          .Add({});
  // Families without a member are not shown.
  prometheus::Family<Counter>& caller_calls = AddCounter(
      "packrat_caller_calls_total", "Calls answered, by caller and status (--metrics_by_caller).");
  prometheus::Family<Counter>& caller_prompt_tokens =
      AddCounter("packrat_caller_prompt_tokens_total",
                 "Prompt tokens of requests that ended, by caller (--metrics_by_caller).");
  prometheus::Family<Counter>& caller_generated_tokens =
      AddCounter("packrat_caller_generated_tokens_total",
                 "Generated tokens of requests that ended, by caller (--metrics_by_caller).");

  Mutex mutex;
  Source source ABSL_GUARDED_BY(mutex);
  bool ready ABSL_GUARDED_BY(mutex) = false;
  std::set<std::string> callers ABSL_GUARDED_BY(mutex);  // With a label of their own.
  struct Watched {
    const char* name;
    const char* help;
    MetricType type;
    std::function<double()> value;
  };
  std::vector<Watched> watched ABSL_GUARDED_BY(mutex);
  RateWindow prompt_rate ABSL_GUARDED_BY(mutex){std::chrono::seconds(10)};
  RateWindow output_rate ABSL_GUARDED_BY(mutex){std::chrono::seconds(10)};
};

Metrics::Metrics(const ServerOptions& options) : impl_(std::make_unique<Impl>(options)) {
  // All counters exist from the start. If one appeared with its first event, a rate would miss that
  // event.
  for (FinishReason reason :
       {FinishReason::kLength, FinishReason::kEos, FinishReason::kStopId, FinishReason::kStopString,
        FinishReason::kCancelled, FinishReason::kDeadline, FinishReason::kError}) {
    impl_->finished.Add({{"reason", FinishReasonName(reason)}});
  }
  for (int code = 0; code <= static_cast<int>(absl::StatusCode::kUnauthenticated); ++code) {
    const auto status = static_cast<absl::StatusCode>(code);
    if (status == absl::StatusCode::kUnknown) continue;  // See ToGrpcStatus().
    const std::string name = absl::StatusCodeToString(status);
    if (code != 0) impl_->errors.Add({{"status", name}});
    for (const char* call :
         {"Generate", "Score", "Tokenize", "Detokenize", "GetModelInfo", "GetPlan", "CreateSession",
          "ListSessions", "GetSession", "ForkSession", "RewindSession", "DeleteSession",
          "SaveSession", "LoadSession"}) {
      impl_->calls.Add({{"call", call}, {"status", name}});
    }
  }
}

Metrics::~Metrics() = default;

void Metrics::SetSource(Source source) {
  MutexLock lock(&impl_->mutex);
  impl_->source = std::move(source);
}

void Metrics::SetReady(bool ready) {
  MutexLock lock(&impl_->mutex);
  impl_->ready = ready;
}

void Metrics::AddGauge(const char* name, const char* help, std::function<double()> value) {
  MutexLock lock(&impl_->mutex);
  impl_->watched.push_back({name, help, MetricType::Gauge, std::move(value)});
}

void Metrics::AddCounter(const char* name, const char* help, std::function<double()> value) {
  MutexLock lock(&impl_->mutex);
  impl_->watched.push_back({name, help, MetricType::Counter, std::move(value)});
}

// The first --metrics_by_caller names get labels of their own and keep them, since counters never
// shrink.
std::string Metrics::Impl::CallerLabel(const std::string& caller) {
  if (caller.empty()) return "unknown";
  MutexLock lock(&mutex);
  if (callers.count(caller) > 0) return caller;
  if (static_cast<int>(callers.size()) >= options.metrics_by_caller) return "other";
  return *callers.insert(caller).first;
}

void Metrics::OnFinish(const std::string& reason, const Usage& usage, const std::string& caller) {
  impl_->finished.Add({{"reason", reason}}).Increment();
  impl_->cached_tokens.Increment(usage.cached_tokens);
  impl_->duration.Observe(absl::ToDoubleSeconds(usage.total_time));
  impl_->prompt_length.Observe(usage.prompt_tokens);
  impl_->output_length.Observe(usage.completion_tokens);
  if (impl_->options.metrics_by_caller > 0) {
    const std::string label = impl_->CallerLabel(caller);
    impl_->caller_prompt_tokens.Add({{"caller", label}}).Increment(usage.prompt_tokens);
    impl_->caller_generated_tokens.Add({{"caller", label}}).Increment(usage.completion_tokens);
  }
  if (usage.completion_tokens < 2) return;
  impl_->per_token.Observe(absl::ToDoubleSeconds(usage.total_time - usage.time_to_first_token) /
                           (usage.completion_tokens - 1));
}

void Metrics::OnMessage(std::chrono::steady_clock::duration interval) {
  impl_->message_interval.Observe(std::chrono::duration<double>(interval).count());
}

void Metrics::OnDelivery(absl::Duration delay) {
  impl_->delivery.Observe(absl::ToDoubleSeconds(delay));
}

void Metrics::OnCall(const std::string& call, const std::string& status_name,
                     const std::string& caller) {
  impl_->calls.Add({{"call", call}, {"status", status_name}}).Increment();
  if (status_name != "OK") impl_->errors.Add({{"status", status_name}}).Increment();
  if (impl_->options.metrics_by_caller > 0) {
    impl_->caller_calls.Add({{"caller", impl_->CallerLabel(caller)}, {"status", status_name}})
        .Increment();
  }
}

void Metrics::OnHttpAnswer(const std::string& path, int status) {
  impl_->http_answers
      .Add({{"path", path.empty() ? "other" : path}, {"code", std::to_string(status)}})
      .Increment();
}

void Metrics::Sample(SteadyTime now) {
  MutexLock lock(&impl_->mutex);
  if (!impl_->source.engine) return;
  const EngineStats stats = impl_->source.engine();
  impl_->prompt_rate.Sample(now, stats.prompt_tokens);
  impl_->output_rate.Sample(now, stats.generated_tokens);
}

// With the names that Prometheus' own clients use, and like them without labels.
void Metrics::Impl::CollectProcess(std::vector<MetricFamily>* out) const {
  const ProcessStats stats = ReadProcessStats();
  MetricReadings to("", out);
  to.Counter("process_cpu_seconds_total", "Processor time used, user and system, in seconds.",
             stats.cpu_seconds);
  to.Gauge("process_resident_memory_bytes", "Resident memory size in bytes.", stats.resident_bytes);
  to.Gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", stats.virtual_bytes);
  to.Gauge("process_threads", "Threads of the process.", stats.threads);
  to.Gauge("process_open_fds", "Open file descriptors.", stats.open_fds);
  to.Gauge("process_max_fds", "Most open file descriptors that the system allows.", stats.max_fds);
  to.Gauge("process_start_time_seconds", "Start of the process in seconds since the Unix epoch.",
           stats.start_time_seconds);
  MetricReadings ours(model, out);
  ours.Gauge("packrat_process_resident_memory_bytes",
             "As process_resident_memory_bytes, with the model's name.", stats.resident_bytes);
}

void Metrics::Impl::CollectServer(std::vector<MetricFamily>* out) {
  MutexLock lock(&mutex);
  MetricReadings to(model, out);
  to.Gauge("packrat_build_info", "Constant 1; the labels say what runs.", 1,
           {{"version", kVersion},
            {"cpu_target", source.cpu_target},
            {"device", source.device},
            {"numerics_id", source.numerics_id},
            {"fingerprint", source.fingerprint}});
  to.Gauge("packrat_ready", "1 while requests are taken: neither loading nor draining.", ready);
  to.Gauge("packrat_max_running", "Most sequences in the batch: --max_running.",
           options.engine.max_running);
  to.Gauge("packrat_max_queue", "Most requests in the queue: --max_queue.",
           options.engine.max_queue);
  to.Gauge("packrat_max_batch_tokens", "Most tokens of a step: --max_batch_tokens.",
           options.engine.max_batch_tokens);
  to.Gauge("packrat_max_text_queue", "Most texts that wait to be worked on: --max_text_queue.",
           options.max_text_queue);
  to.Gauge("packrat_max_sessions", "Most sessions: --max_sessions.", options.sessions.max_sessions);
  to.Gauge("packrat_max_session_tokens", "Most tokens of all sessions: --max_session_tokens.",
           static_cast<double>(options.sessions.max_tokens));
  to.Gauge("packrat_max_streams", "Most open streams: --max_streams.", options.max_streams);
  for (const Watched& metric : watched) {
    if (metric.type == MetricType::Gauge) {
      to.Gauge(metric.name, metric.help, metric.value());
    } else {
      to.Counter(metric.name, metric.help, metric.value());
    }
  }
}

// All values are 0 while there is no engine.
void Metrics::Impl::CollectEngine(SteadyTime now, std::vector<MetricFamily>* out) {
  MutexLock lock(&mutex);
  const EngineStats stats = source.engine ? source.engine() : EngineStats();
  MetricReadings to(model, out);
  AddEngineMetrics(stats, &to);
  to.Gauge("packrat_weight_bytes", "Memory of the model's weights.",
           source.weight_bytes ? source.weight_bytes() : 0);
  to.Gauge("packrat_scratch_bytes", "Memory of the model's intermediate results.",
           source.scratch_bytes ? source.scratch_bytes() : 0);
  to.Gauge("packrat_prompt_tokens_per_second", "Prompt tokens per second over the last 10 s.",
           prompt_rate.Rate(now, stats.prompt_tokens));
  to.Gauge("packrat_generated_tokens_per_second", "Generated tokens per second over the last 10 s.",
           output_rate.Rate(now, stats.generated_tokens));
}

std::string Metrics::Render(SteadyTime now) const {
  std::vector<MetricFamily> families = impl_->registry.Collect();
  impl_->CollectProcess(&families);
  impl_->CollectServer(&families);
  impl_->CollectEngine(now, &families);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace packrat
