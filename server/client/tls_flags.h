// --tls and its like.
#ifndef PACKRAT_SERVER_CLIENT_TLS_FLAGS_H_
#define PACKRAT_SERVER_CLIENT_TLS_FLAGS_H_

#include "absl/status/status.h"
#include "server/client/connection.h"

namespace packrat {

// Fills what concerns TLS. INVALID_ARGUMENT names a flag that lacks another, or whose file cannot
// be read.
absl::Status FillTlsFromFlags(Connection::Options* options);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_TLS_FLAGS_H_
