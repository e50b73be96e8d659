#include "server/client/tls_flags.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

ABSL_FLAG(bool, tls, false,
          "Speak TLS with the server, whose certificate must be of an authority of this system. "
          "The other --tls_ flags mean it too.");
ABSL_FLAG(std::string, tls_ca, "",
          "File of PEM: the server's authorities, in place of the system's.");
ABSL_FLAG(std::string, tls_certificate, "",
          "File of PEM: the client's own certificate, for servers that ask for one.");
ABSL_FLAG(std::string, tls_key, "", "File of PEM: the key of --tls_certificate.");
ABSL_FLAG(std::string, tls_server_name, "",
          "Name that the server's certificate must have, in place of the address's.");

namespace packrat {
namespace {

absl::Status Read(const char* flag, const std::string& path, std::string* bytes) {
  if (path.empty()) return absl::OkStatus();
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  bytes->assign(std::istreambuf_iterator<char>(file), {});
  const char* wrong = nullptr;
  if (!file.good() && !file.eof()) {
    wrong = errno != 0 ? std::strerror(errno) : "cannot be read";
  } else if (!absl::StrContains(*bytes, "-----BEGIN ")) {
    wrong = "has no PEM";
  }
  if (wrong == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", path, ": ", wrong));
}

}  // namespace

absl::Status FillTlsFromFlags(Connection::Options* options) {
  const std::string ca = absl::GetFlag(FLAGS_tls_ca);
  const std::string certificate = absl::GetFlag(FLAGS_tls_certificate);
  const std::string key = absl::GetFlag(FLAGS_tls_key);
  options->tls_server_name = absl::GetFlag(FLAGS_tls_server_name);
  options->tls = absl::GetFlag(FLAGS_tls) || !ca.empty() || !certificate.empty() || !key.empty() ||
                 !options->tls_server_name.empty();
  if (certificate.empty() != key.empty()) {
    return absl::InvalidArgumentError("--tls_certificate and --tls_key come together");
  }
  absl::Status status = Read("tls_ca", ca, &options->tls_ca);
  if (status.ok()) status = Read("tls_certificate", certificate, &options->tls_certificate);
  if (status.ok()) status = Read("tls_key", key, &options->tls_key);
  return status;
}

}  // namespace packrat
