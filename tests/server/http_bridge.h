// Lets gRPC's clients talk to a server's HTTP port: each call becomes a request under /packrat/v1,
// with the same metadata, deadline and end. So a suite that was written for one front runs over the
// other as well (PACKRAT_FRONT, see test_server.h).
#ifndef PACKRAT_TESTS_SERVER_HTTP_BRIDGE_H_
#define PACKRAT_TESTS_SERVER_HTTP_BRIDGE_H_

#include <memory>
#include <string>

namespace packrat {

class HttpBridge {
 public:
  explicit HttpBridge(int http_port);
  // Waits for its calls.
  ~HttpBridge();
  std::string address() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_HTTP_BRIDGE_H_
