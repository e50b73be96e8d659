#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <chrono>
#include <iterator>
#include <limits>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "runtime/bucket_counts.h"
#include "runtime/mutex.h"
#include "server/process_stats.h"
#include "server/version.h"

namespace packrat {
namespace {

using prometheus::ClientMetric;
using prometheus::Counter;
using prometheus::Histogram;
using prometheus::MetricFamily;
using prometheus::MetricType;

const Histogram::BucketBoundaries kSeconds(std::begin(kSecondsBounds), std::end(kSecondsBounds));
const Histogram::BucketBoundaries kTokens(std::begin(kTokensBounds), std::end(kTokensBounds));

// Builds families of values that are read at a scrape. If `model` is empty they have no such label.
class Reading {
 public:
  using Labels = std::vector<ClientMetric::Label>;

  Reading(std::string model, std::vector<MetricFamily>* out)
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
  void Histogram(const char* name, const char* help, const BucketCounts& counts) {
    ClientMetric metric;
    ClientMetric::Histogram& to = metric.histogram;
    for (size_t i = 0; i <= counts.bounds().size(); ++i) {
      to.sample_count += counts.count(i);
      const bool beyond = i == counts.bounds().size();
      to.bucket.push_back(
          {to.sample_count, beyond ? std::numeric_limits<double>::infinity() : counts.bounds()[i]});
    }
    to.sample_sum = counts.sum();
    Put(name, help, MetricType::Histogram, std::move(metric), {});
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
    if (!model_.empty()) metric.label.push_back({"model", model_});
    for (ClientMetric::Label& label : labels) metric.label.push_back(std::move(label));
    out_->back().metric.push_back(std::move(metric));
  }

  const std::string model_;
  std::vector<MetricFamily>* const out_;
};

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
    for (const char* call : {"Generate", "Score", "Tokenize", "Detokenize", "GetModelInfo",
                             "CreateSession", "ListSessions", "GetSession", "ForkSession",
                             "RewindSession", "DeleteSession", "SaveSession", "LoadSession"}) {
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

void Metrics::OnCall(const std::string& call, const std::string& status_name,
                     const std::string& caller) {
  impl_->calls.Add({{"call", call}, {"status", status_name}}).Increment();
  if (status_name != "OK") impl_->errors.Add({{"status", status_name}}).Increment();
  if (impl_->options.metrics_by_caller > 0) {
    impl_->caller_calls.Add({{"caller", impl_->CallerLabel(caller)}, {"status", status_name}})
        .Increment();
  }
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
  Reading to("", out);
  to.Counter("process_cpu_seconds_total", "Processor time used, user and system, in seconds.",
             stats.cpu_seconds);
  to.Gauge("process_resident_memory_bytes", "Resident memory size in bytes.", stats.resident_bytes);
  to.Gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", stats.virtual_bytes);
  to.Gauge("process_threads", "Threads of the process.", stats.threads);
  to.Gauge("process_open_fds", "Open file descriptors.", stats.open_fds);
  to.Gauge("process_max_fds", "Most open file descriptors that the system allows.", stats.max_fds);
  to.Gauge("process_start_time_seconds", "Start of the process in seconds since the Unix epoch.",
           stats.start_time_seconds);
  Reading ours(model, out);
  ours.Gauge("packrat_process_resident_memory_bytes",
             "As process_resident_memory_bytes, with the model's name.", stats.resident_bytes);
}

void Metrics::Impl::CollectServer(std::vector<MetricFamily>* out) {
  MutexLock lock(&mutex);
  Reading to(model, out);
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
  Reading to(model, out);
  to.Gauge("packrat_requests_waiting", "Requests in the queue, parked ones included.",
           stats.waiting);
  to.Gauge("packrat_requests_running", "Sequences in the batch.", stats.running);
  to.Gauge("packrat_state_utilization_ratio",
           "How near memory is to being the limit: the used part of the fullest kind of state of "
           "which there is too little for --max_running longest sequences; 0 where there is none.",
           stats.state_utilization);
  const auto blocked = [&](const char* by, Blocked reason) {
    to.Gauge("packrat_queue_blocked", "1 while the first in the queue waits for this.",
             stats.waiting > 0 && stats.blocked == reason ? 1 : 0, {{"by", by}});
  };
  blocked("max_running", Blocked::kMaxRunning);
  blocked("memory", Blocked::kMemory);
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
  for (const EngineStats::Pool& pool : stats.pools) {
    to.Gauge("packrat_state_cached_bytes",
             "Room for sequence state that only the prefix cache holds, by kind and tier; it gives "
             "way to sequences and is not counted as used.",
             static_cast<double>(pool.cached * pool.bytes_each),
             {{"kind", pool.kind}, {"tier", "device"}});
  }
  for (int miss = 0; miss < kNumCacheMisses; ++miss) {
    to.Counter("packrat_prefix_cache_lookups_total",
               "Requests admitted, by why the prefix cache had no part of their prompt; none: it "
               "had one.",
               static_cast<double>(stats.cache.lookups[miss]),
               {{"miss", CacheMissName(static_cast<CacheMiss>(miss))}});
  }
  to.Gauge("packrat_prefix_cache_snapshots", "States that the prefix cache keeps.",
           static_cast<double>(stats.cache.snapshots));
  to.Gauge("packrat_prefix_cache_remembered_tokens",
           "Tokens of the texts that the prefix cache remembers, with a state or without.",
           static_cast<double>(stats.cache.remembered_tokens));
  to.Counter("packrat_prefix_cache_dropped_total",
             "States that the prefix cache dropped where room was needed.",
             static_cast<double>(stats.cache.dropped));
  to.Gauge("packrat_parked_sequences",
           "Sequences that have made way for others and wait to go on; they count in the queue.",
           stats.parking.sequences);
  to.Gauge("packrat_parked_bytes", "Memory of the process that parked sequences take.",
           static_cast<double>(stats.parking.bytes));
  to.Counter("packrat_parks_total",
             "Times that a sequence made way for one of higher priority or with a near deadline.",
             static_cast<double>(stats.parking.parks));
  to.Counter("packrat_resumes_total", "Times that a parked sequence went on.",
             static_cast<double>(stats.parking.resumes));
  to.Histogram("packrat_parked_time_seconds",
               "Time that a sequence was parked, until it went on or its request ended.",
               stats.parking.time);
  const auto by_tier = [&](const char* name, const char* help, int64_t StateTiers::Tier::*reading) {
    to.Gauge(name, help, static_cast<double>(stats.tiers.memory.*reading), {{"tier", "host"}});
    to.Gauge(name, help, static_cast<double>(stats.tiers.disk.*reading), {{"tier", "disk"}});
  };
  by_tier("packrat_kept_states", "Kept states beside the pool, by tier.",
          &StateTiers::Tier::states);
  by_tier("packrat_kept_state_bytes",
          "What packrat_kept_states take, with those that are being written or read.",
          &StateTiers::Tier::bytes);
  by_tier("packrat_kept_state_capacity_bytes",
          "What packrat_kept_states may take: --state_host_memory and --state_disk.",
          &StateTiers::Tier::limit);
  const auto moved = [&](const char* from, const char* tier, int64_t count) {
    to.Counter("packrat_kept_state_moves_total",
               "Kept states that moved from one tier to another; device: the pool.",
               static_cast<double>(count), {{"from", from}, {"to", tier}});
  };
  moved("device", "host", stats.tiers.moved_to_memory);
  moved("host", "disk", stats.tiers.moved_to_disk);
  moved("disk", "host", stats.tiers.read_from_disk);
  moved("host", "device", stats.tiers.returned);
  to.Counter("packrat_kept_state_read_failures_total",
             "Kept states that were damaged or gone when they were read; they are computed anew.",
             static_cast<double>(stats.tiers.read_failures));
  to.Counter("packrat_kept_state_write_failures_total",
             "Kept states that the disk did not take, as when it is full; they are dropped.",
             static_cast<double>(stats.tiers.write_failures));
  to.Gauge("packrat_weight_bytes", "Memory of the model's weights.",
           source.weight_bytes ? source.weight_bytes() : 0);
  to.Gauge("packrat_scratch_bytes", "Memory of the model's intermediate results.",
           source.scratch_bytes ? source.scratch_bytes() : 0);
  to.Counter("packrat_prompt_tokens_total", "Prompt tokens computed.", stats.prompt_tokens);
  to.Counter("packrat_generated_tokens_total", "Tokens generated, ending tokens included.",
             stats.generated_tokens);
  to.Counter("packrat_scored_tokens_total", "Given tokens scored, of prompts and candidates.",
             stats.scored_tokens);
  to.Gauge("packrat_prompt_tokens_per_second", "Prompt tokens per second over the last 10 s.",
           prompt_rate.Rate(now, stats.prompt_tokens));
  to.Gauge("packrat_generated_tokens_per_second", "Generated tokens per second over the last 10 s.",
           output_rate.Rate(now, stats.generated_tokens));
  to.Histogram("packrat_queue_time_seconds",
               "From the queue to admission to the batch, or to the end of a request that was "
               "never admitted.",
               stats.queue_time);
  to.Counter("packrat_requests_ended_waiting_total",
             "Requests that were over before they were admitted to the batch.",
             stats.ended_waiting);
  to.Histogram("packrat_time_to_first_token_seconds", "From the queue to the first token.",
               stats.time_to_first_token);
  to.Histogram("packrat_inter_token_time_seconds",
               "Between two tokens of a request, each by itself.", stats.inter_token_time);
  to.Counter("packrat_engine_steps_total", "Steps of the engine.", stats.steps);
  to.Histogram("packrat_engine_step_duration_seconds", "Time of one step of the engine.",
               stats.step_time);
  to.Histogram(
      "packrat_engine_step_forecast_ratio",
      "Time of a step's model over what was foretold, by which --inter_token_time is kept.",
      stats.step_time_ratio);
  to.Gauge(
      "packrat_step_prompt_tokens_limit",
      "Prompt tokens that a step may have at present: what --max_batch_tokens leaves, or fewer "
      "for --inter_token_time.",
      stats.max_prompt_tokens);
  to.Histogram("packrat_batch_sequences", "Sequences that a step computed together.",
               stats.batch_sequences);
  to.Histogram("packrat_batch_tokens", "Tokens that a step computed, of prompts and generated.",
               stats.batch_tokens);
  const char* const step_help = "Time of the engine's steps, by part.";
  const char* const step_name = "packrat_engine_step_seconds_total";
  to.Counter(step_name, step_help, absl::ToDoubleSeconds(stats.model_time), {{"part", "model"}});
  to.Counter(step_name, step_help, absl::ToDoubleSeconds(stats.sample_time), {{"part", "sample"}});
  to.Counter(step_name, step_help, absl::ToDoubleSeconds(stats.host_time), {{"part", "host"}});
  to.Counter("packrat_solver_solves_total", "Systems that Mesa layers solved.",
             stats.solver.solves);
  to.Counter("packrat_solver_steps_total", "Steps of Mesa's solver over all systems.",
             stats.solver.steps);
  to.Counter("packrat_solver_unconverged_total",
             "Systems that were left at the step limit instead of the tolerance.",
             stats.solver.unconverged);
}

std::string Metrics::Render(SteadyTime now) const {
  std::vector<MetricFamily> families = impl_->registry.Collect();
  impl_->CollectProcess(&families);
  impl_->CollectServer(&families);
  impl_->CollectEngine(now, &families);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace packrat
