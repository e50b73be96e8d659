#include "server/net/listen_address.h"

#include <sys/un.h>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

absl::Status Wrong(const std::string& text, const std::string& why) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", absl::CHexEscape(text), "\" ", why,
                   "; write host:port, [IPv6]:port, :port (every address of the machine) or "
                   "unix:/path, with a port in [0, 65535] (0: any free one)"));
}

absl::StatusOr<ListenAddress> ParseUnix(const std::string& text) {
  ListenAddress address;
  address.path = text.substr(sizeof("unix:") - 1);
  // A URI, as gRPC's clients accept it too.
  if (absl::StartsWith(address.path, "///")) address.path.erase(0, 2);
  const size_t most = sizeof(sockaddr_un::sun_path) - 1;
  if (address.path.empty() || absl::StartsWith(address.path, "//")) {
    return Wrong(text, "names no path");
  }
  if (address.path.size() > most) {
    return Wrong(text, absl::StrCat("is too long: a socket's path has at most ", most, " bytes"));
  }
  if (address.path.find('\0') != std::string::npos) return Wrong(text, "has a zero byte");
  return address;
}

}  // namespace

absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& text) {
  if (absl::StartsWith(text, "unix:")) return ParseUnix(text);
  ListenAddress address;
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return Wrong(text, "has no port");
  const std::string port = text.substr(colon + 1);
  if (!absl::SimpleAtoi(port, &address.port) || address.port < 0 || address.port > 65535) {
    return Wrong(text, absl::StrCat("has no port behind its last colon"));
  }
  address.host = text.substr(0, colon);
  const bool bracket = absl::StartsWith(address.host, "[");
  if (bracket != absl::EndsWith(address.host, "]")) return Wrong(text, "has half a bracket");
  if (bracket) {
    address.host = address.host.substr(1, address.host.size() - 2);
    if (address.host.find(':') == std::string::npos)
      return Wrong(text, "has no IPv6 address in []");
  } else if (address.host.find(':') != std::string::npos) {
    return Wrong(text, "has an IPv6 address without []");
  }
  for (const unsigned char c : address.host) {
    if (c <= 0x20 || c >= 0x7f || c == '/' || c == '*') return Wrong(text, "has no host name");
  }
  return address;
}

}  // namespace packrat
