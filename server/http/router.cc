#include "server/http/router.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace packrat {

std::string PathOf(const std::string& target) {
  std::string path = target;
  for (const char* scheme : {"http://", "https://"}) {
    if (!absl::StartsWithIgnoreCase(path, scheme)) continue;
    const size_t slash = path.find('/', std::string(scheme).size());
    path = slash == std::string::npos ? "/" : path.substr(slash);
    break;
  }
  return path.substr(0, path.find_first_of("?#"));
}

RoutedAnswer Router::Answer(const std::string& method, const std::string& target,
                            const std::string& authorization, bool trusted) const {
  const HttpRequest request = {method, PathOf(target), authorization};
  RoutedAnswer none;
  for (const HttpRoute& route : routes_) {
    if (route.path != request.path) continue;
    const bool also_head = route.method == "GET" && method == "HEAD";
    if (route.method == method || also_head) {
      if (trusted || route.open_to_all) return {route.handle(request), ""};
      return {{403, "text/plain", "this page needs a client certificate\n"}, ""};
    }
    absl::StrAppend(&none.allow, none.allow.empty() ? "" : ", ", route.method,
                    route.method == "GET" ? ", HEAD" : "");
  }
  none.answer.status = none.allow.empty() ? 404 : 405;
  none.answer.body =
      none.allow.empty() ? "there is no such page\n" : "the page takes other methods\n";
  return none;
}

}  // namespace packrat
