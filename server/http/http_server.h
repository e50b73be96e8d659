// An asynchronous HTTP/1.1 server on one thread. A client that sends nothing, or a byte a second,
// costs a few kilobytes and delays nobody; an answer in pieces costs little more. Only
// http_server.cc and what is private to it know the HTTP library.
#ifndef PACKRAT_SERVER_HTTP_HTTP_SERVER_H_
#define PACKRAT_SERVER_HTTP_HTTP_SERVER_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/http/cors.h"
#include "server/http/http_reply.h"
#include "server/log.h"
#include "server/net/tls_store.h"

namespace packrat {

struct HttpRoute {
  // With an asterisk at its end: of everything that begins like this. The first route that fits
  // counts.
  std::string path;
  std::string method;  // GET answers HEAD as well.
  // Called by the server's thread, which serves nobody else meanwhile. It may take milliseconds.
  std::function<void(HttpRequest, std::shared_ptr<HttpReply>)> handle;
  // Also for clients without a certificate if the server asks for one.
  bool open_to_all = false;
  size_t max_body_bytes = 1024;
  // Its answers may come late, so they never take all of the connections: others keep some.
  bool waits = false;
  bool cross_origin = false;  // Pages of other sites may use it, as far as Options::cors allows.
  // In the place of `handle`, for bodies that are taken as they come: none of Options::body_bytes.
  std::function<std::shared_ptr<HttpUpload>(const HttpRequest& head)> upload;
};

// A handler that answers at once.
std::function<void(HttpRequest, std::shared_ptr<HttpReply>)> AtOnce(
    std::function<HttpAnswer(const HttpRequest&)> answer);

// A refusal as plain text.
HttpAnswer PlainRefusal(int status, const std::string& message);

class HttpServer {
 public:
  struct Options {
    std::string address;      // As ParseListenAddress() takes it.
    TlsStore* tls = nullptr;  // Null: no TLS. Outlives the server.
    // At the limit, the connection that has sent no request for the longest time is closed, so that
    // new clients get through. One that is being answered is not.
    int max_connections = 1024;
    std::chrono::milliseconds idle{75000};     // Between requests, without a byte.
    std::chrono::milliseconds request{10000};  // From a request's first byte to its body.
    // For the whole body; of one that is taken as it comes, for each of its pieces, without the
    // time that these wait for room.
    std::chrono::milliseconds body{60000};
    std::chrono::milliseconds answer{60000};  // Until the client has taken a whole answer.
    int max_header_bytes = 8192;
    // Of all bodies together that have come and that a handler still has. Beyond this the one that
    // has been coming for the longest time is refused.
    int64_t body_bytes = int64_t{16} << 20;
    Cors cors;
    // Told of each answer as it begins. `path`: as its route has it; empty: no route has it.
    std::function<void(const std::string& path, int status)> on_answer = [](const std::string&,
                                                                            int) {};
    // What a request is told that no handler gets. `path`: empty, it is not known.
    std::function<HttpAnswer(const std::string& path, int status, const std::string& message)>
        refusal = [](const std::string&, int status, const std::string& message) {
          return PlainRefusal(status, message);
        };
  };
  // `log` outlives the server. INVALID_ARGUMENT: the address is wrong; UNAVAILABLE: it cannot be
  // used.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const Options& options,
                                                           std::vector<HttpRoute> routes,
                                                           Logger* log);
  // Stops at once, whatever the clients do. Answers that are being sent are cut. All callbacks of
  // replies have returned; replies may outlive the server.
  ~HttpServer();

  // From now on each answer is the last of its connection.
  void Dismiss();

  int port() const;  // 0: a Unix domain socket.
  int64_t accept_failures() const;
  int open_connections() const;
  int64_t taken_connections() const;    // All that were ever open.
  int64_t refused_connections() const;  // Closed at once, without room.
  int64_t body_bytes() const;           // See Options.

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_HTTP_SERVER_H_
