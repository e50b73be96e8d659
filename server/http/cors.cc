#include "server/http/cors.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace packrat {
namespace {

constexpr char kEverywhere[] = "*";
// Beside the few that a page may always read.
constexpr char kReadable[] = "X-Request-Id, Traceresponse, Retry-After, Retry-After-Ms";

// Anything else could never be what a browser says, and would allow nobody.
bool IsOrigin(absl::string_view text) {
  if (text == kEverywhere) return true;
  const size_t scheme = text.find("://");
  if (scheme == 0 || scheme == text.npos || scheme + 3 == text.size()) return false;
  return std::all_of(
             text.begin(), text.end(),
             [](unsigned char c) { return absl::ascii_isgraph(c) && !absl::ascii_isupper(c); }) &&
         text.find_first_of("/?#@*\"\\", scheme + 3) == text.npos;
}

}  // namespace

absl::StatusOr<Cors> Cors::Read(absl::string_view list) {
  Cors cors;
  if (list.empty()) return cors;
  for (const absl::string_view part : absl::StrSplit(list, ',')) {
    const std::string origin(absl::StripAsciiWhitespace(part));
    if (!IsOrigin(origin)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", origin,
                       "\" is no origin; https://host or https://host:port in lower "
                       "case and without a path, or *"));
    }
    cors.origins_.push_back(origin);
  }
  return cors;
}

HttpHeaders Cors::Headers(absl::string_view origin) const {
  HttpHeaders headers;
  if (!on()) return headers;
  const auto has = [this](absl::string_view one) {
    return std::find(origins_.begin(), origins_.end(), one) != origins_.end();
  };
  if (has(kEverywhere)) {
    headers.emplace_back("Access-Control-Allow-Origin", kEverywhere);
  } else {
    // Caches must not show one site the answer to another.
    headers.emplace_back("Vary", "Origin");
    if (origin.empty() || !has(origin)) return headers;
    headers.emplace_back("Access-Control-Allow-Origin", origin);
  }
  headers.emplace_back("Access-Control-Expose-Headers", kReadable);
  return headers;
}

bool Cors::IsPreflight(const HttpRequest& request) {
  return request.method == "OPTIONS" && !request.Header("Origin").empty() &&
         !request.Header("Access-Control-Request-Method").empty();
}

HttpAnswer Cors::Preflight(const HttpRequest& request, const std::string& methods) const {
  HttpAnswer answer = {204, "", "", Headers(request.Header("Origin"))};
  answer.headers.emplace_back("Access-Control-Allow-Methods", methods);
  // Clients have headers of their own, which nothing here minds.
  const absl::string_view asked = request.Header("Access-Control-Request-Headers");
  if (!asked.empty()) answer.headers.emplace_back("Access-Control-Allow-Headers", asked);
  answer.headers.emplace_back("Access-Control-Max-Age", "600");
  return answer;
}

}  // namespace packrat
