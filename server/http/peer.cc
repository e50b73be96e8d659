#include "server/http/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

std::string Text(int family, const void* address) {
  char text[INET6_ADDRSTRLEN];
  return inet_ntop(family, address, text, sizeof(text)) == nullptr ? "" : text;
}

}  // namespace

std::string PeerOf(int fd) {
  sockaddr_storage peer = {};
  socklen_t size = sizeof(peer);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return "";
  if (peer.ss_family == AF_UNIX) return "unix:";
  if (peer.ss_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&peer);
    return absl::StrCat("ipv4:", Text(AF_INET, &v4->sin_addr), ":", ntohs(v4->sin_port));
  }
  if (peer.ss_family != AF_INET6) return "";
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&peer);
  // A socket of both kinds shows IPv4 like this.
  if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
    return absl::StrCat("ipv4:", Text(AF_INET, &v6->sin6_addr.s6_addr[12]), ":",
                        ntohs(v6->sin6_port));
  }
  return absl::StrCat("ipv6:[", Text(AF_INET6, &v6->sin6_addr), "]:", ntohs(v6->sin6_port));
}

}  // namespace packrat
