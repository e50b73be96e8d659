// Certificate, key and clients' authorities, as files of PEM.
#ifndef PACKRAT_SERVER_NET_TLS_FILES_H_
#define PACKRAT_SERVER_NET_TLS_FILES_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace packrat {

struct TlsPaths {
  std::string certificate;  // The server's own, then those that lead to its authority.
  std::string key;
  std::string client_ca;  // Empty: clients need no certificate.
};

// The contents, which fit together.
struct TlsFiles {
  std::string certificate;
  std::string key;
  std::string client_ca;
  absl::Time expires;  // The certificate.

  bool operator==(const TlsFiles& other) const {
    return certificate == other.certificate && key == other.key && client_ca == other.client_ca;
  }
};

// INVALID_ARGUMENT names the flag, the file and what is wrong with it: missing, unreadable, no PEM,
// a key with a password or of another certificate, too weak for TLS.
absl::StatusOr<TlsFiles> ReadTlsFiles(const TlsPaths& paths);

}  // namespace packrat

#endif  // PACKRAT_SERVER_NET_TLS_FILES_H_
