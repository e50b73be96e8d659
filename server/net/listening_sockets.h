// The sockets that an address stands for, bound and listening.
#ifndef PACKRAT_SERVER_NET_LISTENING_SOCKETS_H_
#define PACKRAT_SERVER_NET_LISTENING_SOCKETS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/net/listen_address.h"

namespace packrat {

// Closes them, and removes the file of a Unix domain socket.
class ListeningSockets {
 public:
  // All addresses of the host's name; without a host, or with "::", IPv4 and IPv6 together. No
  // other process can share the port. A Unix domain socket that nobody listens at any more is
  // replaced. UNAVAILABLE: the address is taken, or not of this machine; the message has the
  // reason.
  static absl::StatusOr<ListeningSockets> Open(const ListenAddress& address);
  ListeningSockets(ListeningSockets&& other) noexcept;
  ListeningSockets& operator=(ListeningSockets&&) = delete;
  ~ListeningSockets();
  void Close();

  const std::vector<int>& fds() const { return fds_; }  // At least one; non-blocking.
  int port() const { return port_; }                    // 0: a Unix domain socket.

 private:
  ListeningSockets() = default;
  absl::Status OpenTcp(const ListenAddress& address);
  absl::Status OpenUnix(const std::string& path);

  std::vector<int> fds_;
  int port_ = 0;
  std::string path_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_NET_LISTENING_SOCKETS_H_
