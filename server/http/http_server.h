// An asynchronous HTTP/1.1 server on one thread. A client that sends nothing, or a byte a second,
// costs a few kilobytes and delays nobody. Only http_server.cc knows the HTTP library.
#ifndef PACKRAT_SERVER_HTTP_HTTP_SERVER_H_
#define PACKRAT_SERVER_HTTP_HTTP_SERVER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/log.h"
#include "server/net/tls_store.h"

namespace packrat {

struct HttpRequest {
  std::string method;
  std::string path;           // Without the query, as it was sent.
  std::string authorization;  // The header of this name; empty: none.
};

struct HttpAnswer {
  int status = 200;
  std::string content_type = "text/plain";
  std::string body;
  std::string authenticate;  // The header WWW-Authenticate; empty: none.
};

struct HttpRoute {
  std::string path;
  std::string method;  // GET answers HEAD as well.
  // Called by the server's thread, which serves nobody else meanwhile. It may take milliseconds.
  std::function<HttpAnswer(const HttpRequest&)> handle;
  // Also for clients without a certificate if the server asks for one.
  bool open_to_all = false;
};

class HttpServer {
 public:
  struct Options {
    std::string address;      // As ParseListenAddress() takes it.
    TlsStore* tls = nullptr;  // Null: no TLS. Outlives the server.
    // At the limit, the connection that has sent no request for the longest time is closed, so that
    // new clients get through.
    int max_connections = 1024;
    std::chrono::milliseconds idle{75000};     // Between requests, without a byte.
    std::chrono::milliseconds request{10000};  // From a request's first byte to its last.
    std::chrono::milliseconds answer{10000};   // Until the client has taken the whole of it.
    int max_header_bytes = 8192;
    int max_body_bytes = 1024;
  };
  // `log` outlives the server. INVALID_ARGUMENT: the address is wrong; UNAVAILABLE: it cannot be
  // used.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const Options& options,
                                                           std::vector<HttpRoute> routes,
                                                           Logger* log);
  // Stops at once, whatever the clients do. Answers that are being sent are cut.
  ~HttpServer();

  int port() const;  // 0: a Unix domain socket.
  int64_t accept_failures() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_HTTP_SERVER_H_
