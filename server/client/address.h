// --address of the client.
#ifndef PACKRAT_SERVER_CLIENT_ADDRESS_H_
#define PACKRAT_SERVER_CLIENT_ADDRESS_H_

#include <string>

#include "absl/status/statusor.h"

namespace packrat {

// The name of the channel for what a user wrote: host:port, [ipv6]:port, :port (this machine), or
// one of gRPC's own: dns:, ipv4:, ipv6:, unix:, unix-abstract:. INVALID_ARGUMENT says what is meant
// where gRPC would go elsewhere: without a port it takes 443, of 99999 the lower 16 bits.
absl::StatusOr<std::string> ChannelTarget(const std::string& address);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_ADDRESS_H_
