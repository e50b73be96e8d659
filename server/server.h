// The server as a whole: both ports, the engine's thread, readiness and draining.
//
//   Start()   ports are open, "alive" but not ready; calls get UNAVAILABLE
//   Serve()   a model is there: ready
//   (the model's device is lost: not ready, all that runs and comes gets UNAVAILABLE)
//   (the engine stands still: neither alive nor ready, until it goes on)
//   AnnounceDrain()   not ready, but all goes on
//   DismissClients()  clients are asked to connect anew, elsewhere; all goes on
//   Drain()   calls that come get UNAVAILABLE, what runs may end within the grace time, and the
//             rest gets UNAVAILABLE; then the ports close
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

  // Once. `tokenizer` may be null; both outlive the server. Errors as in Engine::Create().
  // `on_failure` is called by another thread, once, when the model's device is lost; there is
  // nothing left but to Drain() and begin anew.
  absl::Status Serve(LanguageModel* model, const Tokenizer* tokenizer,
                     std::function<void()> on_failure = nullptr);
  // OK, or that.
  absl::Status failure() const;

  // Not ready from here on; all else goes on, so that balancers can take this server out before a
  // call is refused.
  void AnnounceDrain();
  // Sends GOAWAY on all gRPC connections, also on those that come from here on: clients that reach
  // this server through a balancer of connections keep theirs otherwise, and are refused on it.
  void DismissClients();
  // Announces and dismisses first. Returns when both ports are closed, which takes drain_grace and
  // about a second, or for ever where the engine stands still: calls that it holds cannot end.
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
