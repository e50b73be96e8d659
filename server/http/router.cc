#include "server/http/router.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

constexpr size_t kMostShown = 100;  // Of a path in a message.

bool Fits(const std::string& pattern, const std::string& path) {
  if (!absl::EndsWith(pattern, "*")) return pattern == path;
  return absl::StartsWith(path, absl::string_view(pattern).substr(0, pattern.size() - 1));
}

}  // namespace

bool Router::Has(const std::string& path) const {
  return std::any_of(routes_.begin(), routes_.end(),
                     [&path](const HttpRoute& route) { return Fits(route.path, path); });
}

std::string Router::Meant(const std::string& path) const {
  constexpr absl::string_view kApi = "/v1";
  std::string bare = path;
  while (bare.size() > 1 && absl::EndsWith(bare, "/")) bare.pop_back();
  const std::string twice = absl::StrCat(kApi, kApi, "/");
  for (const std::string& other :
       {bare, absl::StrCat(kApi, bare),
        absl::StartsWith(bare, twice) ? bare.substr(kApi.size()) : bare}) {
    if (Has(other)) return other;
  }
  return "";
}

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
  // Nobody needs a path of kilobytes back.
  const std::string shown = path.size() <= kMostShown ? path : path.substr(0, kMostShown) + "..";
  if (!none.allow.empty()) {
    none.status = 405;
    none.message = absl::StrCat(shown, " takes ", none.allow, " and not ", method);
    return none;
  }
  const std::string meant = Meant(path);
  none.status = 404;
  none.message = absl::StrCat("there is no ", shown, " here, which ", method, " asks for",
                              meant.empty() ? "" : absl::StrCat("; there is ", meant));
  return none;
}

}  // namespace packrat
