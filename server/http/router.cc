#include "server/http/router.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

bool Fits(const std::string& pattern, const std::string& path) {
  if (!absl::EndsWith(pattern, "*")) return pattern == path;
  return absl::StartsWith(path, absl::string_view(pattern).substr(0, pattern.size() - 1));
}

}  // namespace

std::string Router::CrossOriginMethods(const std::string& path) const {
  std::string methods;
  for (const HttpRoute& route : routes_) {
    if (!route.cross_origin || !Fits(route.path, path)) continue;
    absl::StrAppend(&methods, methods.empty() ? "" : ", ", route.method);
  }
  return methods;
}

Routed Router::Find(const std::string& method, const std::string& path, bool trusted) const {
  Routed none;
  for (const HttpRoute& route : routes_) {
    if (!Fits(route.path, path)) continue;
    const bool also_head = route.method == "GET" && method == "HEAD";
    if (route.method == method || also_head) {
      if (trusted || route.open_to_all) return {&route, 0, "", ""};
      return {nullptr, 403, "this page needs a client certificate", ""};
    }
    absl::StrAppend(&none.allow, none.allow.empty() ? "" : ", ", route.method,
                    route.method == "GET" ? ", HEAD" : "");
  }
  none.status = none.allow.empty() ? 404 : 405;
  none.message = none.allow.empty()
                     ? "there is no such page"
                     : absl::StrCat("the page takes ", none.allow, " and not ", method);
  return none;
}

}  // namespace packrat
