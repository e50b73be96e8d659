// --address of the client.
#ifndef PACKRAT_SERVER_CLIENT_ADDRESS_H_
#define PACKRAT_SERVER_CLIENT_ADDRESS_H_

#include <string>

#include "absl/status/statusor.h"

namespace packrat {

// Turns what a user wrote into a name for gRPC: host:port, [ipv6]:port, :port (this machine), or
// one of gRPC's own forms: dns:, ipv4:, ipv6:, unix:, unix-abstract:. INVALID_ARGUMENT says what to
// write where gRPC would use another address: without a port it takes 443, and of 99999 the lower
// 16 bits.
absl::StatusOr<std::string> ChannelTarget(const std::string& address);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_ADDRESS_H_
