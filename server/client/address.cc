#include "server/client/address.h"

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace packrat {
namespace {

// What is wrong with host:port; empty if nothing is.
std::string FaultOfEndpoint(absl::string_view endpoint) {
  const size_t colon = endpoint.rfind(':');
  if (colon == absl::string_view::npos) return "the port is missing";
  const absl::string_view host = endpoint.substr(0, colon);
  const bool brackets = absl::StartsWith(host, "[") && absl::EndsWith(host, "]");
  if (!brackets && absl::StrContains(host, ":")) {
    return "an IPv6 address stands in brackets, e.g. [::1]:50051";
  }
  if (host.empty() || host == "[]") return "the host is missing";
  int port;
  if (!absl::SimpleAtoi(endpoint.substr(colon + 1), &port) || port < 1 || port > 65535) {
    return "the port is not in [1, 65535]";
  }
  return "";
}

std::string Fault(absl::string_view address) {
  if (address.empty()) return "it is empty";
  for (unsigned char c : address) {
    if (absl::ascii_isspace(c) || absl::ascii_iscntrl(c)) return "it has a space";
  }
  for (const absl::string_view scheme : {"unix:", "unix-abstract:", "ipv4:", "ipv6:"}) {
    if (!absl::ConsumePrefix(&address, scheme)) continue;
    return address.empty() || address == "//" ? "nothing follows the colon" : "";
  }
  if (absl::ConsumePrefix(&address, "dns:")) {
    // dns:host:port, or dns://resolver/host:port.
    if (absl::StartsWith(address, "//")) address.remove_prefix(address.rfind('/') + 1);
    return FaultOfEndpoint(address);
  }
  if (absl::StrContains(address, "/")) return "it is a URL or a path";
  return FaultOfEndpoint(address);
}

}  // namespace

absl::StatusOr<std::string> ChannelTarget(const std::string& address) {
  const std::string target = absl::StartsWith(address, ":") && !absl::StartsWith(address, "::")
                                 ? absl::StrCat("localhost", address)
                                 : address;
  const std::string fault = Fault(target);
  if (fault.empty()) return target;
  return absl::InvalidArgumentError(
      absl::StrCat("--address is \"", absl::CHexEscape(address), "\": ", fault,
                   "; HOST:PORT is meant, e.g. localhost:50051, or unix:PATH"));
}

}  // namespace packrat
