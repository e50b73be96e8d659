// All metrics of /metrics. Only metrics.cc and engine_metrics.cc know Prometheus. All names begin
// with `packrat_` and have the label `model`, except `process_*`, which every service has.
#ifndef PACKRAT_SERVER_METRICS_H_
#define PACKRAT_SERVER_METRICS_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "runtime/engine.h"
#include "runtime/outbox.h"
#include "server/options.h"

namespace packrat {

using SteadyTime = std::chrono::steady_clock::time_point;

// The rate of a counter over the last `window`. It uses the steady clock: after the wall clock is
// set back, samples from the future would stay in the window.
class RateWindow {
 public:
  explicit RateWindow(std::chrono::seconds window) : window_(window) {}
  // Call it at least a few times per window.
  void Sample(SteadyTime now, int64_t count);
  // Per second, from the oldest sample in the window to (now, count). 0 without one.
  double Rate(SteadyTime now, int64_t count) const;

 private:
  const std::chrono::seconds window_;
  std::deque<std::pair<SteadyTime, int64_t>> samples_;
};

class Metrics {
 public:
  // Reads model_name, the limits and metrics_by_caller.
  explicit Metrics(const ServerOptions& options);
  ~Metrics();

  // Values that are read at every scrape, once there is a model.
  struct Source {
    std::function<EngineStats()> engine;
    std::function<int64_t()> weight_bytes;
    std::function<int64_t()> scratch_bytes;
    std::string fingerprint;
    std::string numerics_id;
    std::string device;
    std::string cpu_target;
  };
  void SetSource(Source source);
  void SetReady(bool ready);
  // Adds a value that any thread reads at every scrape. Call it before the first scrape.
  void AddGauge(const char* name, const char* help, std::function<double()> value);
  void AddCounter(const char* name, const char* help, std::function<double()> value);

  // A Generate call that the engine had is over. `reason` as in FinishReasonName(), `caller` as the
  // client or its key names it, or empty.
  void OnFinish(const std::string& reason, const Usage& usage, const std::string& caller);
  // A message with tokens goes out, `interval` after the one before it in its stream.
  void OnMessage(std::chrono::steady_clock::duration interval);
  // A message with tokens is out, so long after the first of them came.
  void OnDelivery(absl::Duration delay);
  // Any call of the service is over.
  void OnCall(const std::string& call, const std::string& status_name, const std::string& caller);
  // An answer over HTTP begins. `path`: as HttpServer::Options::on_answer has it.
  void OnHttpAnswer(const std::string& path, int status);
  // Feeds the gauges of tokens per second; about once a second.
  void Sample(SteadyTime now);

  // Prometheus' text format.
  std::string Render(SteadyTime now) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_METRICS_H_
