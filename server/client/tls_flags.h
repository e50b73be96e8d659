// --tls and the flags that belong to it.
#ifndef PACKRAT_SERVER_CLIENT_TLS_FLAGS_H_
#define PACKRAT_SERVER_CLIENT_TLS_FLAGS_H_

#include "absl/status/status.h"
#include "server/client/connection.h"

namespace packrat {

// Sets the options of TLS. INVALID_ARGUMENT names a flag that needs another one, or whose file
// cannot be read.
absl::Status FillTlsFromFlags(Connection::Options* options);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_TLS_FLAGS_H_
