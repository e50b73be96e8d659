#include "server/page/page.h"

#include <iterator>
#include <string>

namespace packrat {
namespace {

struct File {
  const char* path;
  const char* type;
};

constexpr File kFiles[] = {
    {"/", "text/html; charset=utf-8"},
    {"/page.css", "text/css; charset=utf-8"},
    {"/page.js", "text/javascript; charset=utf-8"},
    {"/views.js", "text/javascript; charset=utf-8"},
};

constexpr const char* kContents[] = {
#include "server/page/files.inc"
};
static_assert(std::size(kFiles) == std::size(kContents));

// The page loads nothing from elsewhere, talks to this server alone, runs no script but its own,
// and is shown in nobody's frame.
constexpr char kPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

}  // namespace

std::vector<HttpRoute> PageRoutes() {
  std::vector<HttpRoute> routes;
  for (size_t i = 0; i < std::size(kFiles); ++i) {
    HttpAnswer answer;
    answer.content_type = kFiles[i].type;
    answer.body = kContents[i];
    answer.headers = {{"Content-Security-Policy", kPolicy},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Referrer-Policy", "no-referrer"},
                      // A server of another version may be at the address tomorrow.
                      {"Cache-Control", "no-cache"}};
    routes.push_back(
        {kFiles[i].path, "GET", AtOnce([answer](const HttpRequest&) { return answer; })});
  }
  return routes;
}

}  // namespace packrat
