// An address to listen at, as flags give it: "host:port", "[::1]:port", ":port", "unix:/path".
#ifndef PACKRAT_SERVER_NET_LISTEN_ADDRESS_H_
#define PACKRAT_SERVER_NET_LISTEN_ADDRESS_H_

#include <string>

#include "absl/status/statusor.h"

namespace packrat {

struct ListenAddress {
  std::string host;  // Without brackets; empty: every address of the machine.
  int port = 0;      // [0, 65535]; 0: any free one.
  std::string path;  // Of a Unix domain socket; empty: TCP.
};

// INVALID_ARGUMENT lists the known forms.
absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& text);

}  // namespace packrat

#endif  // PACKRAT_SERVER_NET_LISTEN_ADDRESS_H_
