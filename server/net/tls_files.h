// Certificate, key and the authorities for clients, as PEM files.
#ifndef PACKRAT_SERVER_NET_TLS_FILES_H_
#define PACKRAT_SERVER_NET_TLS_FILES_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace packrat {

struct TlsPaths {
  std::string certificate;  // The server's certificate, then those up to its authority.
  std::string key;
  std::string client_ca;  // Empty: clients need no certificate.
};

// The contents of the files. They fit together.
struct TlsFiles {
  std::string certificate;
  std::string key;
  std::string client_ca;
  absl::Time expires;  // When the certificate expires.

  bool operator==(const TlsFiles& other) const {
    return certificate == other.certificate && key == other.key && client_ca == other.client_ca;
  }
};

// INVALID_ARGUMENT names the flag, the file and what is wrong: it is missing, unreadable or not
// PEM, the key has a password or belongs to another certificate, or it is too weak for TLS.
absl::StatusOr<TlsFiles> ReadTlsFiles(const TlsPaths& paths);

}  // namespace packrat

#endif  // PACKRAT_SERVER_NET_TLS_FILES_H_
