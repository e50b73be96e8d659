// The server as a whole: both ports, the engine's thread, readiness and draining.
//
//   Start()   ports are open, "alive" but not ready; calls get UNAVAILABLE
//   Serve()   a model is there: ready
//   (if the model's device is lost: not ready; running and new calls get UNAVAILABLE)
//   (while the engine stands still: neither alive nor ready)
//   AnnounceDrain()   not ready, but everything goes on
//   DismissClients()  clients are asked to connect again, elsewhere; everything goes on
//   Drain()   new calls get UNAVAILABLE; running ones may end within the grace time, and get
//             UNAVAILABLE if they do not; then the ports close
#ifndef PACKRAT_SERVER_SERVER_H_
#define PACKRAT_SERVER_SERVER_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/model.h"
#include "models/text/tokenizer.h"
#include "server/log.h"
#include "server/options.h"

namespace packrat {

class Server {
 public:
  // INVALID_ARGUMENT: an option; UNAVAILABLE: a port is taken. `log` outlives the server.
  static absl::StatusOr<std::unique_ptr<Server>> Start(ServerOptions options, Logger* log);
  // Drains first.
  ~Server();

  // Call it once. `tokenizer` may be null; both outlive the server. Errors as in Engine::Create().
  // If the model's device is lost, another thread calls `on_failure` once; all that can be done
  // then is to Drain() and start again.
  absl::Status Serve(LanguageModel* model, const Tokenizer* tokenizer,
                     std::function<void()> on_failure = nullptr);
  // Why the device is lost; OK if it is not.
  absl::Status failure() const;

  // Not ready from here on. Everything else goes on, so that balancers can take this server out
  // before it refuses a call.
  void AnnounceDrain();
  // Sends GOAWAY on all gRPC connections, new ones included. Otherwise clients that reach this
  // server through a balancer of connections keep theirs, and are refused on them.
  void DismissClients();
  // Announces and dismisses first. Returns when both ports are closed. That takes drain_grace and
  // about a second, or for ever if the engine stands still: the calls that it holds cannot end.
  // Later calls do nothing.
  void Drain();

  int grpc_port() const;
  int http_port() const;  // 0: none.

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_SERVER_H_
