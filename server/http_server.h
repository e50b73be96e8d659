// The port for operators: /metrics, /healthz, /readyz, /version. Only its source knows the HTTP
// library.
#ifndef PACKRAT_SERVER_HTTP_SERVER_H_
#define PACKRAT_SERVER_HTTP_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace packrat {

class HttpServer {
 public:
  struct Handlers {
    std::function<std::string()> metrics;    // Prometheus' text format.
    std::function<std::string()> not_ready;  // Why not; empty: ready.
    std::function<std::string()> version;    // JSON.
  };
  // `address`: host:port; port 0 takes any free one. UNAVAILABLE if it cannot be had.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address,
                                                           Handlers handlers);
  ~HttpServer();
  int port() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_SERVER_H_
