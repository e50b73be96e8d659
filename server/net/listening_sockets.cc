#include "server/net/listening_sockets.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

// Connections that may wait to be accepted. The kernel may have a lower limit.
constexpr int kBacklog = 4096;
constexpr int kSocketType = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;

absl::Status Failed(int error) {
  if (error == EADDRINUSE) return absl::UnavailableError("the address is taken");
  return absl::UnavailableError(std::strerror(error));
}

void Set(int fd, int level, int option, int value) {
  // Ignored by a kernel that does not know it.
  setsockopt(fd, level, option, &value, sizeof(value));
}

int PortOf(int fd) {
  sockaddr_storage bound = {};
  socklen_t size = sizeof(bound);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return 0;
  return bound.ss_family == AF_INET6 ? ntohs(reinterpret_cast<const sockaddr_in6&>(bound).sin6_port)
                                     : ntohs(reinterpret_cast<const sockaddr_in&>(bound).sin_port);
}

void SetPort(sockaddr* address, int port) {
  if (address->sa_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(address)->sin6_port = htons(port);
  } else {
    reinterpret_cast<sockaddr_in*>(address)->sin_port = htons(port);
  }
}

// A listening socket, or -1 with errno.
int BindAndListen(const sockaddr* address, socklen_t size) {
  const int fd = socket(address->sa_family, kSocketType, 0);
  if (fd < 0) return -1;
  if (address->sa_family != AF_UNIX) {
    // A restarted server can use its port although old connections linger. We do not set
    // SO_REUSEPORT, with which two servers on one port would each get half of the clients.
    Set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    // Accepted sockets inherit this. A token must not wait until the last one is acknowledged.
    Set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  }
  // Otherwise a system setting decides whether "::" includes IPv4.
  if (address->sa_family == AF_INET6) Set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
  if (bind(fd, address, size) == 0 && listen(fd, kBacklog) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<AddressList> Resolve(const std::string& host) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), "0", &hints, &found);
  AddressList list(found, &freeaddrinfo);
  if (error == 0) return list;
  return absl::UnavailableError(absl::StrCat(
      "the host \"", host,
      "\" is not found: ", error == EAI_SYSTEM ? std::strerror(errno) : gai_strerror(error)));
}

}  // namespace

absl::StatusOr<ListeningSockets> ListeningSockets::Open(const ListenAddress& address) {
  ListeningSockets sockets;
  absl::Status status;
  if (!address.path.empty()) {
    status = sockets.OpenUnix(address.path);
  } else if (address.host.empty()) {
    // One socket serves both families. A machine without IPv6 gets IPv4 only.
    status = sockets.OpenTcp({"::", address.port, ""});
    if (!status.ok() && sockets.fds_.empty() && errno == EAFNOSUPPORT) {
      status = sockets.OpenTcp({"0.0.0.0", address.port, ""});
    }
  } else {
    status = sockets.OpenTcp(address);
  }
  if (!status.ok()) return status;
  return sockets;
}

absl::Status ListeningSockets::OpenTcp(const ListenAddress& address) {
  auto found = Resolve(address.host);
  if (!found.ok()) return found.status();
  port_ = address.port;
  int last_error = EADDRNOTAVAIL;
  for (const addrinfo* at = found->get(); at != nullptr; at = at->ai_next) {
    SetPort(at->ai_addr, port_);  // If any port will do, all use that of the first.
    const int fd = BindAndListen(at->ai_addr, at->ai_addrlen);
    if (fd >= 0) {
      fds_.push_back(fd);
      port_ = PortOf(fd);
      continue;
    }
    last_error = errno;
    // "localhost" includes ::1, which a container often lacks. But if one of the addresses is in
    // use we do not listen at the others.
    if (last_error != EADDRNOTAVAIL && last_error != EAFNOSUPPORT) return Failed(last_error);
  }
  errno = last_error;
  return fds_.empty() ? Failed(last_error) : absl::OkStatus();
}

absl::Status ListeningSockets::OpenUnix(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  int fd = BindAndListen(generic, sizeof(address));
  struct stat file = {};
  if (fd < 0 && errno == EADDRINUSE && lstat(path.c_str(), &file) == 0) {
    if (!S_ISSOCK(file.st_mode)) return absl::UnavailableError("there is a file of that name");
    // If nobody answers, a server that was killed left it behind.
    const int probe = socket(AF_UNIX, kSocketType, 0);
    const bool dead =
        probe >= 0 && connect(probe, generic, sizeof(address)) != 0 && errno == ECONNREFUSED;
    if (probe >= 0) close(probe);
    errno = EADDRINUSE;
    if (dead && unlink(path.c_str()) == 0) fd = BindAndListen(generic, sizeof(address));
  }
  if (fd < 0) return Failed(errno);
  fds_.push_back(fd);
  path_ = path;
  return absl::OkStatus();
}

ListeningSockets::ListeningSockets(ListeningSockets&& other) noexcept
    : fds_(std::exchange(other.fds_, {})),
      port_(other.port_),
      path_(std::exchange(other.path_, {})) {}

ListeningSockets::~ListeningSockets() { Close(); }

void ListeningSockets::Close() {
  // The file goes first, so that whoever finds it finds a listener.
  if (!path_.empty()) unlink(path_.c_str());
  path_.clear();
  for (const int fd : fds_) close(fd);
  fds_.clear();
}

}  // namespace packrat
