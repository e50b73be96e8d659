// Pages for operators and their probes: /metrics, /healthz, /readyz, /health, /balancerz, /version.
#ifndef PACKRAT_SERVER_HTTP_OPERATOR_PAGES_H_
#define PACKRAT_SERVER_HTTP_OPERATOR_PAGES_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/http/http_server.h"

namespace packrat {

// Called by the HTTP server's thread.
struct OperatorPages {
  std::function<std::string()> metrics;  // Prometheus' text format.
  // Whether a client with this header `Authorization` may read them; null: every client may.
  std::function<absl::Status(const std::string& authorization)> may_read_metrics;
  std::function<std::string()> not_alive;  // The reason; empty: it is alive.
  std::function<std::string()> not_ready;  // The reason; empty: it is ready.
  std::function<bool()> draining;          // Not ready, but running calls go on.
  std::function<std::string()> version;    // JSON.
};

std::vector<HttpRoute> OperatorRoutes(const OperatorPages& pages);

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_OPERATOR_PAGES_H_
