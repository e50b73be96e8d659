// The other end of a socket, for logs.
#ifndef PACKRAT_SERVER_HTTP_PEER_H_
#define PACKRAT_SERVER_HTTP_PEER_H_

#include <string>

namespace packrat {

// "ipv4:127.0.0.1:50000", "ipv6:[::1]:50000", "unix:"; empty: it is not known.
std::string PeerOf(int fd);

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_PEER_H_
