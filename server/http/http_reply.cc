#include "server/http/http_reply.h"

#include "absl/strings/match.h"

namespace packrat {

absl::string_view HttpRequest::Header(absl::string_view name) const {
  const std::string* found = nullptr;
  for (const auto& [key, value] : headers) {
    if (!absl::EqualsIgnoreCase(key, name)) continue;
    if (found != nullptr) return "";
    found = &value;
  }
  return found == nullptr ? "" : absl::string_view(*found);
}

}  // namespace packrat
