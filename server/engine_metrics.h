// What the engine counts, as metrics.
#ifndef PACKRAT_SERVER_ENGINE_METRICS_H_
#define PACKRAT_SERVER_ENGINE_METRICS_H_

#include "runtime/engine.h"
#include "server/metric_readings.h"

namespace packrat {

void AddEngineMetrics(const EngineStats& stats, MetricReadings* to);

}  // namespace packrat

#endif  // PACKRAT_SERVER_ENGINE_METRICS_H_
