// Which pages of other sites may use the API (Cross-Origin Resource Sharing). A browser asks before
// it sends anything that such a page wants sent with JSON or a key (a preflight), and does not show
// the page an answer that does not allow it.
//
// Browsers are never told to send what they hold for this server (cookies, client certificates):
// keys are what a page itself puts into the header Authorization.
#ifndef PACKRAT_SERVER_HTTP_CORS_H_
#define PACKRAT_SERVER_HTTP_CORS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/http/http_reply.h"

namespace packrat {

class Cors {
 public:
  // `list`: origins as browsers name them, "https://host" or "https://host:port", with commas
  // between them; or "*", every page. Empty: none. INVALID_ARGUMENT names the one that is wrong.
  static absl::StatusOr<Cors> Read(absl::string_view list);

  bool on() const { return !origins_.empty(); }
  // What an answer to a request from `origin` (empty: it names none) has for its browser.
  HttpHeaders Headers(absl::string_view origin) const;
  // A browser's question, which only asks.
  static bool IsPreflight(const HttpRequest& request);
  // The answer to it, about a page that takes `methods`.
  HttpAnswer Preflight(const HttpRequest& request, const std::string& methods) const;

 private:
  std::vector<std::string> origins_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_CORS_H_
