#include "server/start_message.h"

#include "absl/strings/str_cat.h"
#include "server/net/listen_address.h"

namespace packrat {
namespace {

// The address as somebody on this machine writes it.
std::string Reachable(const std::string& listen, int port) {
  const auto address = ParseListenAddress(listen);
  if (!address.ok()) return listen;  // It was opened, so this does not happen.
  if (!address->path.empty()) return absl::StrCat("unix:", address->path);
  const std::string& host = address->host;
  if (host.empty() || host == "0.0.0.0" || host == "::") return absl::StrCat("localhost:", port);
  const bool is_ipv6 = host.find(':') != host.npos;
  return absl::StrCat(is_ipv6 ? "[" : "", host, is_ipv6 ? "]:" : ":", port);
}

}  // namespace

std::string StartMessage(const ServerOptions& options, int grpc_port, int http_port,
                         const std::string& client) {
  const bool tls = !options.tls_certificate.empty();
  const bool page = options.http_page && http_port != 0;
  std::string message = "\n";
  if (page) {
    absl::StrAppend(&message, "  Open            ", tls && options.http_tls ? "https" : "http",
                    "://", Reachable(options.http_listen, http_port), "/\n");
  }
  std::string flags;
  const std::string address = Reachable(options.listen, grpc_port);
  if (address != ServerOptions().listen) absl::StrAppend(&flags, " --address=", address);
  if (tls) flags += " --tls_ca=FILE";
  if (!options.tls_client_ca.empty()) flags += " --tls_certificate=FILE --tls_key=FILE";
  absl::StrAppend(&message, page ? "  or type         " : "  Type            ", client, " chat",
                  flags, "\n");
  absl::StrAppend(&message, "                  ", client, " complete \"Once upon a time\"", flags,
                  "\n");
  if (!options.api_keys.empty()) {
    message += "  with a key in   PACKRAT_API_KEY, for the client\n";
  }
  return message + "  Ctrl-C stops the server.\n\n";
}

}  // namespace packrat
