// Values that are read at a scrape, as Prometheus' families.
#ifndef PACKRAT_SERVER_METRIC_READINGS_H_
#define PACKRAT_SERVER_METRIC_READINGS_H_

#include <prometheus/client_metric.h>
#include <prometheus/metric_family.h>

#include <cstddef>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "runtime/bucket_counts.h"

namespace packrat {

// Builds families of values that are read at a scrape. If `model` is empty they have no such label.
class MetricReadings {
 public:
  using Labels = std::vector<prometheus::ClientMetric::Label>;

  MetricReadings(std::string model, std::vector<prometheus::MetricFamily>* out)
      : model_(std::move(model)), out_(out) {}

  void Gauge(const char* name, const char* help, double value, Labels labels = {}) {
    prometheus::ClientMetric metric;
    metric.gauge.value = value;
    Put(name, help, prometheus::MetricType::Gauge, std::move(metric), std::move(labels));
  }
  void Counter(const char* name, const char* help, double value, Labels labels = {}) {
    prometheus::ClientMetric metric;
    metric.counter.value = value;
    Put(name, help, prometheus::MetricType::Counter, std::move(metric), std::move(labels));
  }
  void Histogram(const char* name, const char* help, const BucketCounts& counts) {
    prometheus::ClientMetric metric;
    prometheus::ClientMetric::Histogram& to = metric.histogram;
    for (size_t i = 0; i <= counts.bounds().size(); ++i) {
      to.sample_count += counts.count(i);
      const bool beyond = i == counts.bounds().size();
      to.bucket.push_back(
          {to.sample_count, beyond ? std::numeric_limits<double>::infinity() : counts.bounds()[i]});
    }
    to.sample_sum = counts.sum();
    Put(name, help, prometheus::MetricType::Histogram, std::move(metric), {});
  }

 private:
  void Put(const char* name, const char* help, prometheus::MetricType type,
           prometheus::ClientMetric metric, Labels labels) {
    if (out_->empty() || out_->back().name != name) {
      prometheus::MetricFamily family;
      family.name = name;
      family.help = help;
      family.type = type;
      out_->push_back(std::move(family));
    }
    if (!model_.empty()) metric.label.push_back({"model", model_});
    for (prometheus::ClientMetric::Label& label : labels) metric.label.push_back(std::move(label));
    out_->back().metric.push_back(std::move(metric));
  }

  const std::string model_;
  std::vector<prometheus::MetricFamily>* const out_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_METRIC_READINGS_H_
