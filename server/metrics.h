// Everything under /metrics. Only this file's source knows Prometheus. All names begin with
// `packrat_` and carry the label `model`.
#ifndef PACKRAT_SERVER_METRICS_H_
#define PACKRAT_SERVER_METRICS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "runtime/engine.h"
#include "runtime/request.h"

namespace packrat {

// The rate of a counter over the last `window`.
class RateWindow {
 public:
  explicit RateWindow(absl::Duration window) : window_(window) {}
  // To be called at least a few times per window.
  void Sample(absl::Time now, int64_t count);
  // Per second, from the oldest sample in the window to (now, count). 0 without one.
  double Rate(absl::Time now, int64_t count) const;

 private:
  const absl::Duration window_;
  std::deque<std::pair<absl::Time, int64_t>> samples_;
};

class Metrics {
 public:
  explicit Metrics(const std::string& model_name);
  ~Metrics();

  // What is read at every scrape, from the time that there is a model.
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

  // A Generate call that the engine had, when it is over. `reason` as in FinishReasonName().
  void OnFinish(const std::string& reason, const Usage& usage);
  // Any call of the service, when it is over.
  void OnCall(const std::string& call, const std::string& status_name);
  // Feeds the gauges of tokens per second; about once a second.
  void Sample(absl::Time now);

  // Prometheus' text format.
  std::string Render(absl::Time now) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_METRICS_H_
