// The gRPC port: its settings, health and reflection.
#ifndef PACKRAT_SERVER_GRPC_GRPC_PORT_H_
#define PACKRAT_SERVER_GRPC_GRPC_PORT_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/grpc/unread_calls.h"
#include "server/log.h"
#include "server/net/tls_store.h"
#include "server/options.h"

namespace grpc {
class Service;
}

namespace packrat {

class GrpcPort {
 public:
  // Listens at `options.listen` for at most `max_connections`. At first it is alive and not ready.
  // `unread`: the calls of `service` whose message has not arrived yet; the port ends those that
  // take too long. `tls` (null: none), `service`, `unread` and `log` outlive the port. UNAVAILABLE:
  // the address cannot be used.
  static absl::StatusOr<std::unique_ptr<GrpcPort>> Start(const ServerOptions& options,
                                                         int max_connections, TlsStore* tls,
                                                         grpc::Service* service,
                                                         UnreadCalls* unread, Logger* log);
  // Shuts down first.
  ~GrpcPort();

  // The answers of grpc.health.v1: alive for the service "", ready for packrat.v1.Inference. While
  // connections cannot be accepted it is not ready in any case.
  void SetAlive(bool alive);
  void SetReady(bool ready);

  // Asks all clients, also those that come later, to send their calls elsewhere. Running calls go
  // on, and a connection ends with its last call. Later calls of this function do nothing.
  void Dismiss();

  // Accepts no more connections, waits until answers have reached the clients, and ends the
  // connections. A call that comes meanwhile is UNAVAILABLE to its client. Calls that still run a
  // few times `grace` later are cut. Returns when all have ended. Later calls do nothing.
  void Shutdown(absl::Duration grace);

  int port() const;  // 0: a Unix domain socket.

  // Whether connections could not be accepted for seconds.
  bool deaf() const;
  int open_connections() const;
  int64_t refused_connections() const;  // Beyond the limit; closed at once.
  int64_t accept_failures() const;

 private:
  struct Impl;
  explicit GrpcPort(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_GRPC_PORT_H_
