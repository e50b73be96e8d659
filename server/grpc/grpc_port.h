// The port on which gRPC is spoken: its settings, health and reflection.
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
  // Listens at `options.listen` for at most `max_connections`; alive and not ready. `unread` are
  // the calls of `service` whose message is not there yet, which the port ends in time. `tls`
  // (null: none), `service`, `unread` and `log` outlive the port. UNAVAILABLE: the address cannot
  // be had.
  static absl::StatusOr<std::unique_ptr<GrpcPort>> Start(const ServerOptions& options,
                                                         int max_connections, TlsStore* tls,
                                                         grpc::Service* service,
                                                         UnreadCalls* unread, Logger* log);
  // Shuts down first.
  ~GrpcPort();

  // What grpc.health.v1 answers: alive is the service "", ready is packrat.v1.Inference.
  // Not ready either while connections cannot be accepted.
  void SetAlive(bool alive);
  void SetReady(bool ready);

  // Asks every client, also those that come from here on, to take its calls elsewhere. All goes on,
  // and connections end with their last call. Later calls do nothing.
  void Dismiss();

  // Takes no more connections, lets what was answered reach the clients, and ends the connections:
  // a call that comes meanwhile is UNAVAILABLE to its client. Calls that still run a few times
  // `grace` later are cut. Returns when all have ended. Later calls do nothing.
  void Shutdown(absl::Duration grace);

  int port() const;  // 0: a Unix domain socket.

  // Connections cannot be accepted, for seconds now.
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
