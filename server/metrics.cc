#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <cstdio>
#include <vector>

#include "runtime/mutex.h"
#include "server/version.h"

namespace packrat {
namespace {

using prometheus::ClientMetric;
using prometheus::Counter;
using prometheus::Histogram;
using prometheus::MetricFamily;
using prometheus::MetricType;

// Seconds. From half a millisecond, which a small model needs for one token, to what a long text on
// a busy server takes.
const Histogram::BucketBoundaries kSeconds = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                              0.05,   0.1,   0.25,   0.5,   1,    2.5,
                                              5,      10,    30,     60,    120,  300};

int64_t ResidentBytes() {
  // Second number of statm: resident pages.
  int64_t total = 0, resident = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  if (std::fscanf(file, "%ld %ld", &total, &resident) != 2) resident = 0;
  std::fclose(file);
  return resident * sysconf(_SC_PAGESIZE);
}

// Builds the families that are read from elsewhere at the moment of a scrape.
class Snapshot {
 public:
  using Labels = std::vector<ClientMetric::Label>;

  Snapshot(std::string model, std::vector<MetricFamily>* out)
      : model_(std::move(model)), out_(out) {}

  void Gauge(const char* name, const char* help, double value, Labels labels = {}) {
    ClientMetric metric;
    metric.gauge.value = value;
    Put(name, help, MetricType::Gauge, std::move(metric), std::move(labels));
  }
  void Counter(const char* name, const char* help, double value, Labels labels = {}) {
    ClientMetric metric;
    metric.counter.value = value;
    Put(name, help, MetricType::Counter, std::move(metric), std::move(labels));
  }

 private:
  void Put(const char* name, const char* help, MetricType type, ClientMetric metric,
           Labels labels) {
    if (out_->empty() || out_->back().name != name) {
      MetricFamily family;
      family.name = name;
      family.help = help;
      family.type = type;
      out_->push_back(std::move(family));
    }
    metric.label.push_back({"model", model_});
    for (ClientMetric::Label& label : labels) metric.label.push_back(std::move(label));
    out_->back().metric.push_back(std::move(metric));
  }

  const std::string model_;
  std::vector<MetricFamily>* const out_;
};

}  // namespace

void RateWindow::Sample(absl::Time now, int64_t count) {
  samples_.emplace_back(now, count);
  while (samples_.front().first < now - window_) samples_.pop_front();
}

double RateWindow::Rate(absl::Time now, int64_t count) const {
  for (const auto& [time, before] : samples_) {
    if (time < now - window_) continue;
    const double seconds = absl::ToDoubleSeconds(now - time);
    return seconds > 0 ? (count - before) / seconds : 0;
  }
  return 0;
}

struct Metrics::Impl {
  explicit Impl(const std::string& model_name) : model(model_name) {}

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
  void CollectEngine(absl::Time now, std::vector<MetricFamily>* out);
  void CollectProcess(std::vector<MetricFamily>* out);

  const std::string model;
  prometheus::Registry registry;
  Histogram& first_token =
      AddHistogram("packrat_time_to_first_token_seconds", "From the queue to the first token.")
          .Add({}, kSeconds);
  Histogram& per_token = AddHistogram("packrat_time_per_output_token_seconds",
                                      "Mean time between a request's tokens after the first.")
                             .Add({}, kSeconds);
  Histogram& queue =
      AddHistogram("packrat_queue_time_seconds", "From the queue to admission to the batch.")
          .Add({}, kSeconds);
  Histogram& duration =
      AddHistogram("packrat_request_duration_seconds", "From the queue to the last token.")
          .Add({}, kSeconds);
  prometheus::Family<Counter>& finished = AddCounter(
      "packrat_requests_finished_total", "Requests that left the engine, by why they ended.");
  prometheus::Family<Counter>& calls =
      AddCounter("packrat_calls_total", "Calls answered, by call and status.");
  prometheus::Family<Counter>& errors =
      AddCounter("packrat_errors_total", "Calls answered with another status than OK, by status.");
  Counter& cached_tokens =
      AddCounter("packrat_cached_prompt_tokens_total",
                 "Prompt tokens that were not computed because a cache had them.")
          .Add({});

  Mutex mutex;
  Source source ABSL_GUARDED_BY(mutex);
  bool ready ABSL_GUARDED_BY(mutex) = false;
  RateWindow prompt_rate ABSL_GUARDED_BY(mutex){absl::Seconds(10)};
  RateWindow output_rate ABSL_GUARDED_BY(mutex){absl::Seconds(10)};
};

Metrics::Metrics(const std::string& model_name) : impl_(std::make_unique<Impl>(model_name)) {
  // So that a rate over them has a first value.
  for (FinishReason reason :
       {FinishReason::kLength, FinishReason::kEos, FinishReason::kStopId, FinishReason::kStopString,
        FinishReason::kCancelled, FinishReason::kDeadline, FinishReason::kError}) {
    impl_->finished.Add({{"reason", FinishReasonName(reason)}});
  }
  for (const char* status :
       {"CANCELLED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION", "INTERNAL", "UNAVAILABLE"}) {
    impl_->errors.Add({{"status", status}});
  }
  for (const char* call : {"Generate", "Tokenize", "Detokenize", "GetModelInfo"}) {
    impl_->calls.Add({{"call", call}, {"status", "OK"}});
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

void Metrics::OnFinish(const std::string& reason, const Usage& usage) {
  impl_->finished.Add({{"reason", reason}}).Increment();
  impl_->cached_tokens.Increment(usage.cached_tokens);
  impl_->duration.Observe(absl::ToDoubleSeconds(usage.total_time));
  if (usage.completion_tokens == 0) return;  // Ended before it had begun.
  impl_->queue.Observe(absl::ToDoubleSeconds(usage.queue_time));
  impl_->first_token.Observe(absl::ToDoubleSeconds(usage.time_to_first_token));
  if (usage.completion_tokens < 2) return;
  impl_->per_token.Observe(absl::ToDoubleSeconds(usage.total_time - usage.time_to_first_token) /
                           (usage.completion_tokens - 1));
}

void Metrics::OnCall(const std::string& call, const std::string& status_name) {
  impl_->calls.Add({{"call", call}, {"status", status_name}}).Increment();
  if (status_name != "OK") impl_->errors.Add({{"status", status_name}}).Increment();
}

void Metrics::Sample(absl::Time now) {
  MutexLock lock(&impl_->mutex);
  if (!impl_->source.engine) return;
  const EngineStats stats = impl_->source.engine();
  impl_->prompt_rate.Sample(now, stats.prompt_tokens);
  impl_->output_rate.Sample(now, stats.generated_tokens);
}

void Metrics::Impl::CollectProcess(std::vector<MetricFamily>* out) {
  MutexLock lock(&mutex);
  Snapshot to(model, out);
  to.Gauge("packrat_build_info", "Constant 1; the labels say what runs.", 1,
           {{"version", kVersion},
            {"cpu_target", source.cpu_target},
            {"device", source.device},
            {"numerics_id", source.numerics_id},
            {"fingerprint", source.fingerprint}});
  to.Gauge("packrat_ready", "1 while requests are taken: neither loading nor draining.", ready);
  to.Gauge("packrat_process_resident_memory_bytes", "Resident memory of the process.",
           ResidentBytes());
}

void Metrics::Impl::CollectEngine(absl::Time now, std::vector<MetricFamily>* out) {
  MutexLock lock(&mutex);
  if (!source.engine) return;
  const EngineStats stats = source.engine();
  Snapshot to(model, out);
  to.Gauge("packrat_requests_waiting", "Requests in the queue.", stats.waiting);
  to.Gauge("packrat_requests_running", "Sequences in the batch.", stats.running);
  to.Gauge("packrat_state_utilization_ratio",
           "Used part of the fullest kind of sequence state, 0 to 1.", stats.state_utilization);
  // One tier so far: the memory of the device that runs the model.
  for (const EngineStats::Pool& pool : stats.pools) {
    to.Gauge("packrat_state_used_bytes", "Sequence state in use, by kind and tier.",
             static_cast<double>(pool.used * pool.bytes_each),
             {{"kind", pool.kind}, {"tier", "device"}});
  }
  for (const EngineStats::Pool& pool : stats.pools) {
    to.Gauge("packrat_state_capacity_bytes", "Room for sequence state, by kind and tier.",
             static_cast<double>(pool.total * pool.bytes_each),
             {{"kind", pool.kind}, {"tier", "device"}});
  }
  to.Gauge("packrat_weight_bytes", "Memory of the model's weights.", source.weight_bytes());
  to.Gauge("packrat_scratch_bytes", "Memory of the model's intermediate results.",
           source.scratch_bytes());
  to.Counter("packrat_prompt_tokens_total", "Prompt tokens computed.", stats.prompt_tokens);
  to.Counter("packrat_generated_tokens_total", "Tokens generated, ending tokens included.",
             stats.generated_tokens);
  to.Gauge("packrat_prompt_tokens_per_second", "Prompt tokens per second over the last 10 s.",
           prompt_rate.Rate(now, stats.prompt_tokens));
  to.Gauge("packrat_generated_tokens_per_second", "Generated tokens per second over the last 10 s.",
           output_rate.Rate(now, stats.generated_tokens));
  to.Counter("packrat_engine_steps_total", "Steps of the engine.", stats.steps);
  const char* const step_help = "Time of the engine's steps, by part.";
  const char* const step_name = "packrat_engine_step_seconds_total";
  to.Counter(step_name, step_help, absl::ToDoubleSeconds(stats.model_time), {{"part", "model"}});
  to.Counter(step_name, step_help, absl::ToDoubleSeconds(stats.sample_time), {{"part", "sample"}});
  to.Counter(step_name, step_help, absl::ToDoubleSeconds(stats.host_time), {{"part", "host"}});
  to.Counter("packrat_solver_solves_total", "Systems that Mesa layers solved.", stats.cg_solves);
  to.Counter("packrat_solver_steps_total", "Steps of Mesa's solver over all systems.",
             stats.cg_steps);
  to.Counter("packrat_solver_unconverged_total",
             "Systems that were left at the step limit instead of the tolerance.",
             stats.cg_unconverged);
}

std::string Metrics::Render(absl::Time now) const {
  std::vector<MetricFamily> families = impl_->registry.Collect();
  impl_->CollectProcess(&families);
  impl_->CollectEngine(now, &families);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace packrat
