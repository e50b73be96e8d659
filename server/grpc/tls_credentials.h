// The credentials of a gRPC port whose certificates change while it serves.
#ifndef PACKRAT_SERVER_GRPC_TLS_CREDENTIALS_H_
#define PACKRAT_SERVER_GRPC_TLS_CREDENTIALS_H_

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "server/net/tls_store.h"

namespace packrat {

// TLS 1.2 and up, by ALPN h2. `store` outlives the server that uses them.
std::shared_ptr<grpc::ServerCredentials> TlsCredentials(TlsStore* store);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GRPC_TLS_CREDENTIALS_H_
