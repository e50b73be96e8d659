#include "server/http/operator_pages.h"

namespace packrat {
namespace {

// 200 and `good` where there is no `trouble`, else that.
HttpAnswer Probe(const std::string& trouble, const char* good) {
  HttpAnswer answer;
  answer.status = trouble.empty() ? 200 : 503;
  answer.body = (trouble.empty() ? good : trouble) + "\n";
  return answer;
}

}  // namespace

std::vector<HttpRoute> OperatorRoutes(const OperatorPages& pages) {
  return {
      {"/metrics", "GET",
       [pages](const HttpRequest&) {
         return HttpAnswer{200, "text/plain; version=0.0.4; charset=utf-8", pages.metrics()};
       }},
      {"/healthz", "GET", [](const HttpRequest&) { return Probe("", "ok"); }},
      {"/readyz", "GET", [pages](const HttpRequest&) { return Probe(pages.not_ready(), "ready"); }},
      {"/version", "GET",
       [pages](const HttpRequest&) {
         return HttpAnswer{200, "application/json", pages.version() + "\n"};
       }},
  };
}

}  // namespace packrat
