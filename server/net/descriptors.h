// The limit of open files, and how it is divided.
#ifndef PACKRAT_SERVER_NET_DESCRIPTORS_H_
#define PACKRAT_SERVER_NET_DESCRIPTORS_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace packrat {

// Raises the process's soft limit to the hard one, at most to a million. Returns the new limit.
int64_t RaiseDescriptorLimit();

struct DescriptorShares {
  int grpc = 0;  // Connections.
  int http = 0;  // Connections.
};

// `max_connections`: of gRPC; 0: as many as fit, at most 4096. RESOURCE_EXHAUSTED names the flag,
// or the limit if it is too low for any server.
absl::StatusOr<DescriptorShares> ShareDescriptors(int64_t limit, int max_connections);

}  // namespace packrat

#endif  // PACKRAT_SERVER_NET_DESCRIPTORS_H_
