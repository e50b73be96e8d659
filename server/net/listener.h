// Accepts connections at an address. It goes on when accept() fails. Both ports use it and decide
// what to do with a connection.
#ifndef PACKRAT_SERVER_NET_LISTENER_H_
#define PACKRAT_SERVER_NET_LISTENER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "server/log.h"
#include "server/net/accept_health.h"
#include "server/net/listening_sockets.h"

namespace packrat {

class Listener {
 public:
  struct Options {
    std::string flag;     // The flag that gave the address; for messages and the log.
    std::string address;  // As ParseListenAddress() takes it.
    // The listener's thread calls both. The first becomes the owner of the socket, which does not
    // block.
    std::function<void(int fd)> on_connection;
    std::function<void(bool deaf)> on_deaf = [](bool) {};  // Called when it changes.
    AcceptHealth::Duration patience{5000};  // How long failures may last before it is deaf.
    std::function<int(int fd)> accept;      // Null: accept4(). For tests.
  };
  // INVALID_ARGUMENT: the address has no known form; UNAVAILABLE: it cannot be used. `log` outlives
  // the listener.
  static absl::StatusOr<std::unique_ptr<Listener>> Start(Options options, Logger* log);
  // Stops first.
  ~Listener();
  // Closes the address. No callback is called after this. Later calls do nothing.
  void Stop();

  int port() const { return port_; }  // 0: a Unix domain socket.
  int64_t failures() const { return failures_.load(); }
  bool deaf() const { return deaf_.load(); }

 private:
  Listener(Options options, Logger* log, ListeningSockets sockets, int wake);
  void Loop();
  // True: stop. A negative time means forever.
  bool Wait(int milliseconds, bool for_connections);
  // False: accept() failed.
  bool AcceptWaiting(int fd);
  void OnFailure(int fd, int error);
  void DropOne(int fd);
  void UpdateDeaf();

  const Options options_;
  Logger* const log_;
  ListeningSockets sockets_;
  const int port_;
  const int wake_;  // An eventfd.
  int spare_;       // A descriptor to close when no other is left; -1: it is closed.
  AcceptHealth health_;
  AcceptHealth::Duration pause_{0};
  std::atomic<int64_t> failures_{0};
  std::atomic<bool> deaf_{false};
  std::thread thread_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_NET_LISTENER_H_
