// The sockets of an address, bound and listening.
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
  // Listens at all addresses of the host's name. Without a host, or with "::", these are IPv4 and
  // IPv6 together. No other process can share the port. An old Unix domain socket is replaced if
  // nobody listens at it. UNAVAILABLE, with the reason: the address is in use, or not of this
  // machine.
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
